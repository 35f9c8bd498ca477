"""Remote stores against real servers: moto for conditional writes, nanio for access control."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stoker.store.errors import ObjectExists, ObjectMissing, StoreUnreachable, UnsafeStore
from stoker.store.objects import ObjectStore
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


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_by_name(nanio: NanioServer, name: str) -> None:
    with pointed_at(nanio), environment_of({name: "wrong"}), pytest.raises(StoreUnreachable, match="403"):
        ObjectStore.open(nanio.url)
