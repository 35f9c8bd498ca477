"""What a process gets to see of the environment follows from where its store is."""

from __future__ import annotations

import pytest

from stoker.fleet.attempt import rank_environment
from stoker.store.remote_environment import store_environment

EVERYTHING = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_ENDPOINT_URL": "b",
    "GOOGLE_SERVICE_ACCOUNT": "c",
    "AZURE_STORAGE_ACCOUNT_NAME": "d",
    "HTTPS_PROXY": "e",
    "no_proxy": "f",
    "SSL_CERT_FILE": "g",
    "STOKER_PASSPHRASE": "h",
    "PATH": "/bin",
}
NETWORK = {"HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE"}


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("file:///data/store", set()),
        ("memory://", set()),
        ("s3://bucket/team?attempts=3", {"AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"} | NETWORK),
        ("gs://bucket", {"GOOGLE_SERVICE_ACCOUNT"} | NETWORK),
        ("az://box", {"AZURE_STORAGE_ACCOUNT_NAME"} | NETWORK),
    ],
)
def test_only_what_the_store_needs_is_handed_on(url: str, seen: set[str]) -> None:
    assert store_environment(url, EVERYTHING) == {name: EVERYTHING[name] for name in seen}
    ranks = rank_environment(EVERYTHING, 2, url)
    assert {name for name in EVERYTHING if name in ranks} == seen | {"PATH"}
