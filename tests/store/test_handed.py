"""A store that is handed over a local socket: the same objects, within its rules, whoever breaks off."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.store.errors import (
    AccessRefused,
    BadObjectKey,
    ObjectExists,
    ObjectMissing,
    OutOfRange,
    StoreUnreachable,
)
from stoker.store.handed import STORE_FD_NAME, HandedStore, HandRules, StoreHand, handed_store
from stoker.store.objects import ObjectStore

RULES = HandRules(reads=("datasets/text/1",), writes=("runs/r-1",))


@pytest.fixture
def real(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(tmp_path.as_uri())


@pytest.fixture
def handed(real: ObjectStore) -> Iterator[ObjectStore]:
    """The same store from inside, over two sockets."""
    pairs = [socket.socketpair() for _ in range(2)]
    hand = StoreHand(real, RULES)
    threads = [threading.Thread(target=hand.serve, args=(ours,)) for ours, _ in pairs]
    for thread in threads:
        thread.start()
    yield ObjectStore(HandedStore([theirs for _, theirs in pairs]))
    for _, theirs in pairs:
        theirs.close()
    for thread in threads:
        thread.join()


def test_objects_are_the_same_from_inside(real: ObjectStore, handed: ObjectStore) -> None:
    real.create("datasets/text/1/0.stk", b"sealed bytes")
    assert handed.place == real.place
    assert handed.get("datasets/text/1/0.stk") == b"sealed bytes"
    ranges = handed.get_ranges("datasets/text/1/0.stk", [(7, 5), (0, 6), (3, 0)])
    assert [bytes(each) for each in ranges] == [b"bytes", b"sealed", b""]
    large = bytes(range(256)) * 20_000
    handed.create("runs/r-1/log/1.stk", large)
    assert real.get("runs/r-1/log/1.stk") == large
    assert list(handed.list("runs/r-1")) == ["runs/r-1/log/1.stk"]
    handed.delete("runs/r-1/log/1.stk")
    assert not handed.exists("runs/r-1/log/1.stk")
    handed.create("runs/r-1/a/1", b"")
    assert handed.get("runs/r-1/a/1") == b""
    assert handed.delete_prefix("runs/r-1/a") == 1


def test_errors_cross_as_their_own_classes(real: ObjectStore, handed: ObjectStore) -> None:
    real.create("runs/r-1/a", b"first")
    with pytest.raises(ObjectExists):
        handed.create("runs/r-1/a", b"second")
    with pytest.raises(ObjectMissing, match="runs/r-1/b"):
        handed.size("runs/r-1/b")
    with pytest.raises(OutOfRange):
        handed.get_range("runs/r-1/a", 3, 9)
    assert real.get("runs/r-1/a") == b"first"


@pytest.mark.parametrize("key", ["datasets/text/2/0.stk", "datasets/text/10", "runs/r-10/a", "sources/a/1"])
def test_what_the_rules_do_not_name_is_neither_read_nor_written(
    key: str, real: ObjectStore, handed: ObjectStore
) -> None:
    real.create(key, b"of others")
    for use in (
        lambda: handed.get(key),
        lambda: list(handed.list(key)),
        lambda: handed.create(f"{key}/more", b"x"),
        lambda: handed.delete(key),
        lambda: handed.delete_prefix(key),
    ):
        with pytest.raises(AccessRefused):
            use()
    assert real.get(key) == b"of others"


def test_a_dataset_is_read_and_not_written(real: ObjectStore, handed: ObjectStore) -> None:
    real.create("datasets/text/1/0.stk", b"sealed")
    for use in (
        lambda: handed.delete("datasets/text/1/0.stk"),
        lambda: handed.create("datasets/text/1/1.stk", b"x"),
        lambda: handed.delete_prefix("datasets/text/1"),
    ):
        with pytest.raises(AccessRefused, match="may not be written"):
            use()
    assert handed.get("datasets/text/1/0.stk") == b"sealed"


def test_rules_hold_for_a_client_that_checks_no_names(handed: ObjectStore) -> None:
    inside = handed._backend
    for key in ("../outside", "runs/r-1/../../etc", "/etc/passwd", ""):
        with pytest.raises((BadObjectKey, AccessRefused)):
            inside.create(key, b"x")


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">IQ", 1 << 31, 0),
        struct.pack(">IQ", 2, 1 << 62) + b"{}",
        struct.pack(">IQ", 2, 0) + b"[]",
        struct.pack(">IQ", 2, 0) + b"{}",
        struct.pack(">IQ", 15, 0) + b'{"deed":"drop"}',
        struct.pack(">IQ", 4, 0) + b"\xff\xfe\x00\x00",
        b"\0",
    ],
)
def test_nonsense_ends_one_connection_and_allocates_nothing(raw: bytes, real: ObjectStore) -> None:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=StoreHand(real, RULES).serve, args=(ours,))
    thread.start()
    theirs.sendall(raw)
    theirs.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):  # what it did not read of ours is thrown away
        assert theirs.recv(100) == b""
    thread.join()
    theirs.close()


def test_a_hand_that_is_gone_is_told_and_may_be_tried_again_elsewhere() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(StoreUnreachable, match="does not answer any more"):
        HandedStore([theirs])


def test_a_process_finds_its_sockets_by_their_numbers(real: ObjectStore) -> None:
    assert handed_store({}) is None
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=StoreHand(real, RULES).serve, args=(ours,))
    thread.start()
    store = handed_store({f"{STORE_FD_NAME}0": str(theirs.detach())})
    assert store is not None
    assert store.place == real.place
    del store
    thread.join(60)
