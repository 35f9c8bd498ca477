"""Remote stores against real servers: moto for conditional writes, nanio for access control."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from stoker.store.errors import AccessRefused, ObjectExists, ObjectMissing, StoreUnreachable, UnsafeStore
from stoker.store.objects import ObjectStore
from stoker.store.resilient import ResilientStore
from support.s3_servers import (
    MotoServer,
    NanioServer,
    environment_of,
    moto_server,
    nanio_server,
    pointed_at,
)


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server, pointed_at(server):
        yield server


@pytest.fixture(scope="module")
def nanio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NanioServer]:
    with nanio_server(tmp_path_factory.mktemp("nanio") / "data") as server:
        yield server


def test_a_store_that_honours_the_condition_is_opened_and_left_clean(moto: MotoServer) -> None:
    store = ObjectStore.open(moto.new_bucket())
    assert list(store.list()) == []
    store.create("a/x", b"first")
    with pytest.raises(ObjectExists, match="a/x is already in the store s3://bucket"):
        store.create("a/x", b"second")
    assert store.get("a/x") == b"first"
    with pytest.raises(ObjectMissing, match="a/y"):
        store.get("a/y")
    assert store.delete_prefix("a") == 1 and list(store.list()) == []


def test_a_store_that_overwrites_is_refused(nanio: NanioServer) -> None:
    with pointed_at(nanio), pytest.raises(UnsafeStore, match="s3://kept does not refuse"):
        ObjectStore.open(nanio.url)
    assert [path for path in nanio.folder.rglob("*") if path.is_file()] == []


def test_right_credentials_are_let_in(nanio: NanioServer) -> None:
    """Without the probe, which such a store does not pass."""
    with pointed_at(nanio):
        store = ObjectStore(ResilientStore.connect(nanio.url))
        store.create("a/x", b"sealed")
        assert store.get("a/x") == b"sealed" and list(store.list("a")) == ["a/x"]
        assert (nanio.folder / "a/x").read_bytes() == b"sealed"
        store.delete("a/x")
        assert not (nanio.folder / "a/x").exists()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_by_name(nanio: NanioServer, name: str) -> None:
    with pointed_at(nanio), environment_of({name: "wrong-value"}):
        with pytest.raises(AccessRefused, match="s3://kept: the store refused access \\(403, ") as caught:
            ObjectStore.open(nanio.url)
        message = caught.value.message + caught.value.hint
        assert name in caught.value.hint
        assert not any(secret in message for secret in (nanio.access_key, nanio.secret_key, "wrong-value"))
        assert isinstance(caught.value, StoreUnreachable)


def test_a_bucket_that_is_not_there_is_named(moto: MotoServer) -> None:
    with pytest.raises(StoreUnreachable, match=r"s3://no-such-bucket is not there \(NoSuchBucket\)"):
        ObjectStore.open("s3://no-such-bucket")
    store = ObjectStore(ResilientStore.connect("s3://no-such-bucket"))
    with pytest.raises(StoreUnreachable, match="is not there"):
        list(store.list())
    with pytest.raises(StoreUnreachable, match="is not there"):
        store.get_range("x", 0, 1)


def test_of_many_creates_at_once_in_a_bucket_one_wins(moto: MotoServer) -> None:
    store, winners = ObjectStore.open(moto.new_bucket()), []

    def create(number: int) -> None:
        try:
            store.create("race/x", b"%d" % number * 1000)
        except ObjectExists:
            return
        winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1 and store.get("race/x") == b"%d" % winners[0] * 1000
