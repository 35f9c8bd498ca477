"""gs:// and az://: no such server is to be had here, so what is sent to one is looked at.

The library is pointed at tests/support/slow_store.py, which answers as these stores are documented to answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.store.errors import AccessRefused, ObjectExists, ObjectMissing, OutOfRange, StoreUnreachable
from stoker.store.objects import ObjectStore
from stoker.store.resilient import ResilientStore
from support.slow_store import Fault, SlowStore, environment_of


@pytest.fixture
def server() -> Iterator[SlowStore]:
    with SlowStore() as running, environment_of({"GOOGLE_ALLOW_HTTP": "true", "AZURE_ALLOW_HTTP": "true"}):
        yield running


@pytest.fixture
def google(server: SlowStore, tmp_path: Path) -> Iterator[SlowStore]:
    account = {"gcs_base_url": server.endpoint, "disable_oauth": True}
    names = ("client_email", "private_key", "private_key_id")
    (tmp_path / "account.json").write_text(json.dumps(account | dict.fromkeys(names, "")))
    with environment_of({"GOOGLE_SERVICE_ACCOUNT": str(tmp_path / "account.json")}):
        yield server


@pytest.fixture
def azure(server: SlowStore) -> Iterator[SlowStore]:
    emulator = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": server.endpoint}
    with environment_of(emulator):
        yield server


def test_google_is_asked_for_a_create_by_generation_and_used_like_any_store(google: SlowStore) -> None:
    store = ObjectStore.open("gs://slow/team")
    assert {one.condition for one in google.requests("PUT")} == {"x-goog-if-generation-match: 0"}
    assert google.objects == {}
    store.create("a/x", b"first")
    with pytest.raises(ObjectExists, match="a/x is already in the store gs://slow/team"):
        store.create("a/x", b"second")
    google.plan(Fault.LOST, method="PUT")
    google.plan(Fault.UNAVAILABLE, method="GET")
    store.create("a/y", b"other")
    assert store.get("a/x") == b"first" and list(store.list("a")) == ["a/x", "a/y"]
    with pytest.raises(ObjectMissing, match="a/z"):
        store.size("a/z")
    with pytest.raises(OutOfRange):
        store.get_range("a/x", 4, 2)
    assert store.delete_prefix("a") == 2 and google.objects == {}


def test_azure_is_asked_for_a_create_by_condition_and_its_conflict_means_that_the_name_is_taken(
    azure: SlowStore,
) -> None:
    store = ObjectStore(ResilientStore.connect("az://slow/team"))
    azure.plan(Fault.LOST, method="PUT")
    store.create("a/x", b"first")
    with pytest.raises(ObjectExists, match="a/x is already in the store az://slow/team"):
        store.create("a/x", b"second")
    assert {one.condition for one in azure.requests("PUT")} == {"If-None-Match: *"}
    assert azure.objects == {"team/a/x": b"first"} and store.get("a/x") == b"first"
    with pytest.raises(OutOfRange):
        store.get_range("a/x", 4, 2)


def test_what_an_azure_url_lacks_is_named(server: SlowStore) -> None:
    with pytest.raises(StoreUnreachable, match=r"az://box/team' cannot be used as a store.*[Aa]ccount"):
        ObjectStore.open("az://box/team")


@pytest.mark.parametrize("fixture", ["google", "azure"])
def test_a_refusal_is_named_and_not_repeated(request: pytest.FixtureRequest, fixture: str) -> None:
    server: SlowStore = request.getfixturevalue(fixture)
    store = ObjectStore(ResilientStore.connect("gs://slow" if fixture == "google" else "az://slow"))
    server.plan(Fault.FORBIDDEN, times=100)
    with pytest.raises(AccessRefused, match="403"):
        store.get("x")
    assert server.count() == 1
