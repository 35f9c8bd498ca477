"""The links between a run's processes, and how each is protected. See docs/design/fleet.md, "Links".

What can be seen is seen; what cannot, an operator declares in the run file. A declaration may say less than
what is seen, and more only where nothing can be seen: that a fabric is closed to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from stoker.fleet.errors import LinkTooWeak
from stoker.spec.run import LinksSpec
from stoker.spec.terms import Protection, at_least

_CLOUDS: Final = ("AWS", "GOOGLE", "AZURE")


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a run: what is at its ends, how it is protected, and how that is known."""

    name: str
    protection: Protection
    known: str


def links_of(
    store_url: str, declared: LinksSpec, environment: Mapping[str, str], *, spread: bool = False
) -> tuple[Link, ...]:
    """Every link of a run with its store at `store_url`, as `environment` lets it be reached.

    `spread`: over several nodes; otherwise all of it is on one.

    Raises LinkTooWeak on a declaration that is not true.
    """
    local = "both ends are processes of one machine"
    ranks = Link("ranks", Protection.LOOPBACK, local)
    events = Link("events", Protection.LOOPBACK, "inherited pipes, which are no network")
    if spread:
        ranks = Link("ranks", Protection.NONE, "ranks reach one another over the network of their nodes")
        between = "between nodes they go over the connections of what starts processes there"
        events = _declared("between ranks", Link("events", Protection.NONE, between), declared.ranks)
    return (
        _declared("between ranks", ranks, declared.ranks),
        Link("keys", Protection.LOOPBACK, "an inherited socket pair, which is no network"),
        events,
        _declared("to the store", _seen_store(store_url, environment), declared.store),
    )


def require_protection(links: Sequence[Link], least: Protection, dataset: str) -> None:
    """Raises LinkTooWeak, naming each link that is protected less than the review of `dataset` asks for."""
    weak = [link for link in links if not at_least(link.protection, least)]
    if weak:
        named = ", ".join(f"{link.name} has {link.protection} ({link.known})" for link in weak)
        raise LinkTooWeak(
            f"The review of dataset {dataset} asks for links protected by {least} or better: {named}.",
            hint="Use links that are protected so, declare in [launch.links] what Stoker cannot see, or ask "
            "for a review with other terms.",
        )


def _seen_store(store_url: str, environment: Mapping[str, str]) -> Link:
    scheme = urlsplit(store_url).scheme
    if scheme == "file":
        return Link("store", Protection.LOOPBACK, "a folder of this machine")
    allowed = (environment.get(f"{cloud}_ALLOW_HTTP", "").lower() for cloud in _CLOUDS)
    if scheme == "http" or any(word in ("1", "true") for word in allowed):
        return Link(
            "store", Protection.NONE, "plain HTTP is allowed; what crosses it is sealed, names are not"
        )
    return Link("store", Protection.TLS, f"{scheme} over HTTPS")


def _declared(what: str, seen: Link, declared: Protection | None) -> Link:
    if declared is None or declared is seen.protection:
        return seen
    fabric = declared is Protection.ISOLATED_FABRIC and seen.protection is Protection.NONE
    if not fabric and at_least(declared, seen.protection):
        raise LinkTooWeak(
            f"[launch.links] declares {declared} for the link {what}, and it has {seen.protection}: "
            f"{seen.known}.",
            hint="Declare what the link has; only a closed fabric cannot be seen from here.",
        )
    return Link(seen.name, declared, "declared in the run file")
