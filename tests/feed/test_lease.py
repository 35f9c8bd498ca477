"""A feed under a lease: it stops at the next chunk, and what it held is overwritten."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stoker.core.clock import SystemClock
from stoker.feed.feed import Feed
from stoker.feed.mixture import Mixture, MixturePart
from stoker.keys.agent import KeyAgent
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.errors import LeaseExpired, LeaseRefused
from stoker.keys.lease import Lease
from stoker.keys.lease_page import LeaseEnd, LeasePage, LeaseView
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from support.key_stores import SCOPE, open_store
from support.sealed_dataset import SealedDataset, sealed_dataset

LONG_S = 3_600.0


class Leased:
    """A sealed dataset whose keys come over a real agent under a lease that a page shows."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        backend = open_store(folder / "keys", clock=clock)
        kek = backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        self.clock = clock
        self.sealed: SealedDataset = sealed_dataset(folder / "store", BackendKeySource(backend), kek=kek)
        lease = Lease("l-1", "r-1", frozenset({kek}), frozenset(), "train", clock.now_s() + LONG_S)
        self.agent = KeyAgent(backend, lease, clock)
        self.page = LeasePage()
        self.agent.show_on(self.page)
        (ours, theirs), caller = key_sockets(), Caller.this_process()
        self._thread = threading.Thread(target=self.agent.serve, args=(ours, caller))
        self._thread.start()
        view = LeaseView(os.dup(self.page.descriptor))
        self.keys = AgentKeySource(theirs, caller.copy_secret(), view)

    def feed(self, **more: Any) -> Feed:
        values: dict[str, Any] = {"global_batch": 8, "seed": 3, "prefetch_batches": 2, **more}
        return Feed(self.sealed.open(keys=self.keys), **values)

    def close(self) -> None:
        self.agent.close()
        self._thread.join()
        self.keys.close()
        self.page.close()


@pytest.fixture
def leased(tmp_path: Path) -> Iterator[Leased]:
    leased = Leased(tmp_path)
    yield leased
    leased.close()


def opens_counted(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Counts every chunk that is really decrypted, whoever asks."""
    from stoker.store.shards import ShardReader

    counted = SimpleNamespace(chunks=0)
    read = ShardReader.read_chunk_into

    def counting(self: ShardReader, place: int, target: memoryview) -> int:
        counted.chunks += 1
        return read(self, place, target)

    monkeypatch.setattr(ShardReader, "read_chunk_into", counting)
    return counted


@pytest.mark.parametrize("read_threads", [0, 2])
@pytest.mark.parametrize(
    ("end", "error"), [("revoke", LeaseRefused), ("isolation", LeaseRefused), ("expire", LeaseExpired)]
)
def test_no_chunk_is_opened_after_the_lease_ended_in_mid_epoch(
    leased: Leased, monkeypatch: pytest.MonkeyPatch, read_threads: int, end: str, error: type[Exception]
) -> None:
    with leased.feed(read_threads=read_threads, window_chunks=1) as feed:
        counted = opens_counted(monkeypatch)
        for _ in range(10):
            feed.next_array()
        assert counted.chunks > 0
        if end == "expire":
            leased.agent.renew(leased.clock.now_s() - 1.0)
        else:
            leased.agent.revoke(LeaseEnd.ISOLATION if end == "isolation" else LeaseEnd.REVOKED)
        state = feed.state_dict()
        with pytest.raises(error):
            feed.next_array()
        after = counted.chunks  # the threads have ended with the feed
        with pytest.raises(error):
            feed.next_array()
        assert feed.state_dict() == state
        assert counted.chunks == after
    with leased.feed() as another, pytest.raises(error):
        another.next_array()
    assert counted.chunks == after


def test_every_buffer_is_zero_afterwards_and_every_key_is_wiped(leased: Leased) -> None:
    feed = leased.feed(reuse_batches=True)
    batch = feed.next_array()
    reader = feed._batches
    arena = reader._reader._arena  # type: ignore[attr-defined]
    slots = [arena.room(slot) for slot in range(arena._slots)]
    assert batch.any()
    assert any(np.frombuffer(slot, np.uint8).any() for slot in slots)
    held = list(reader._reader._split._shards._keys._open.values())  # type: ignore[attr-defined]
    assert held
    assert not any(key.wiped for key in held)
    leased.agent.revoke()
    with pytest.raises(LeaseRefused):
        feed.next_array()
    assert not any(np.frombuffer(slot, np.uint8).any() for slot in slots)
    assert not batch.any()
    assert not any(block.any() for block in reader._ring)  # type: ignore[attr-defined]
    assert all(key.wiped for key in held)
    assert not reader._reader._split._shards._shards  # type: ignore[attr-defined]


def test_batches_that_were_ready_are_not_handed_out(leased: Leased) -> None:
    with leased.feed() as feed:
        feed.next_array()
        feed.next_array()
        leased.agent.revoke()
        with pytest.raises(LeaseRefused):
            feed.next_array()
        assert not feed._ahead.ready


def test_a_mixture_and_a_pass_in_stored_order_stop_as_well(leased: Leased) -> None:
    dataset = leased.sealed.open(keys=leased.keys)
    parts = [MixturePart(dataset, 0.5, "train"), MixturePart(dataset, 0.5, "heldout")]
    in_order = dataset.token_split("train").sequential()
    next(in_order)
    with Mixture(parts, global_batch=4, seed=1) as mixture:
        mixture.next_array()
        leased.agent.revoke()
        with pytest.raises(LeaseRefused):
            mixture.next_array()
    with pytest.raises(LeaseRefused):
        list(in_order)


def test_atk_026_after_a_refusal_nobody_storms_the_key_agent(leased: Leased) -> None:
    """Readers that go on asking cost the agent nothing: the page refuses before a message is sent."""
    feed = leased.feed(read_threads=2)
    feed.next_array()
    asked = leased.agent.answers
    leased.agent.revoke()
    for _ in range(50):
        with pytest.raises(LeaseRefused), leased.feed() as another:
            another.next_array()
    with pytest.raises(LeaseRefused):
        feed.next_array()
    assert leased.agent.answers == asked


def test_a_renewed_lease_goes_on_and_an_ended_one_is_never_good_again(leased: Leased) -> None:
    with leased.feed() as feed:
        leased.agent.renew(leased.clock.now_s() + LONG_S)
        feed.next_array()
    leased.page.end(LeaseEnd.REVOKED)
    leased.page.show(LONG_S)
    with leased.feed() as feed, pytest.raises(LeaseRefused):
        feed.next_array()
