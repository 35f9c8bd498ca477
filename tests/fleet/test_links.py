"""The links of a run: what is seen, what may be declared, and what a review may ask for."""

from __future__ import annotations

import pytest

from stoker.fleet.errors import LinkTooWeak
from stoker.fleet.links import links_of, require_protection
from stoker.spec.run import LinksSpec
from stoker.spec.terms import Protection


def protection(
    store_url: str, declared: LinksSpec | None = None, **environment: str
) -> dict[str, Protection]:
    links = links_of(store_url, declared or LinksSpec(), environment)
    return {link.name: link.protection for link in links}


def test_what_stays_on_a_machine_is_loopback_and_a_bucket_is_reached_by_tls() -> None:
    assert set(protection("file:///srv/store").values()) == {Protection.LOOPBACK}
    assert protection("s3://bucket/place")["store"] is Protection.TLS


@pytest.mark.parametrize(
    ("url", "environment"), [("http://host/x", {}), ("s3://bucket/x", {"AWS_ALLOW_HTTP": "true"})]
)
def test_where_plain_http_is_allowed_a_link_has_no_protection(url: str, environment: dict[str, str]) -> None:
    assert protection(url, **environment)["store"] is Protection.NONE


def test_less_may_be_declared_and_more_only_of_a_fabric_that_cannot_be_seen() -> None:
    shared = LinksSpec(store=Protection.ISOLATED_FABRIC)
    assert protection("file:///net/store", shared)["store"] is Protection.ISOLATED_FABRIC
    assert protection("http://host/x", shared)["store"] is Protection.ISOLATED_FABRIC
    with pytest.raises(LinkTooWeak, match="declares tls"):
        protection("http://host/x", LinksSpec(store=Protection.TLS))
    with pytest.raises(LinkTooWeak, match="declares loopback"):
        protection("s3://bucket/x", LinksSpec(store=Protection.LOOPBACK))


def test_every_link_below_the_terms_is_named() -> None:
    links = links_of("http://host/x", LinksSpec(ranks=Protection.NONE), {})
    require_protection(links, Protection.NONE, "text")
    with pytest.raises(LinkTooWeak, match=r"ranks has none .* store has none"):
        require_protection(links, Protection.TLS, "text")
