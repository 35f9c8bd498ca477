"""Partition keys in process and over the agent's socket behave the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.agent import KeyAgent
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.errors import KeyDestroyed, KeyExpired, KeyNotActive, WrongContext
from stoker.keys.file_backend import FileBackend
from stoker.keys.lease import Lease
from stoker.keys.partition import BackendKeySource, KeySource, partition_context
from stoker.keys.refs import KekRef, Purpose
from support.key_stores import SCOPE, open_store


@dataclass
class Bench:
    backend: FileBackend
    clock: ManualClock
    keks: tuple[KekRef, KekRef]
    source: KeySource


@pytest.fixture(params=["in process", "over a socket"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    clock = ManualClock()
    backend = open_store(tmp_path / "keys", clock=clock)
    one = backend.create_kek(SCOPE, Purpose.DATASET, expires_s=clock.now_s() + 100)
    other = backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
    if request.param == "in process":
        yield Bench(backend, clock, (one, other), BackendKeySource(backend))
        return
    lease = Lease(
        "l-1", "r-1", frozenset({one, other}), frozenset({one, other}), "a test", clock.now_s() + 1e6
    )
    agent = KeyAgent(backend, lease, clock)
    (ours, theirs), caller = key_sockets(), Caller.this_process()
    thread = threading.Thread(target=agent.serve, args=(ours, caller))
    thread.start()
    source = AgentKeySource.of(theirs, caller)
    yield Bench(backend, clock, (one, other), source)
    source.close()
    thread.join()


def test_a_partition_key_opens_again(bench: Bench) -> None:
    key, wrapped = bench.source.new_partition_key(bench.keks[0], Purpose.DATASET)
    with key, bench.source.open_partition_key(bench.keks[0], wrapped, Purpose.DATASET) as opened:
        assert opened.view() == key.view()
        assert bytes(opened.view()) != bytes(32)


def test_every_new_key_is_another(bench: Bench) -> None:
    made = [bench.source.new_partition_key(bench.keks[0], Purpose.DATASET) for _ in range(20)]
    assert len({bytes(key.view()) for key, _ in made}) == 20


def test_kek_and_purpose_are_bound(bench: Bench) -> None:
    _, wrapped = bench.source.new_partition_key(bench.keks[0], Purpose.DATASET)
    with pytest.raises(WrongContext):
        bench.source.open_partition_key(bench.keks[1], wrapped, Purpose.DATASET)
    with pytest.raises(WrongContext):
        bench.source.open_partition_key(bench.keks[0], wrapped, Purpose.CHECKPOINT)


@pytest.mark.parametrize("wrapped", [b"", b"x", bytes(66), bytes(1025), bytes(10_000_000)])
def test_what_is_no_wrapped_key_is_refused_and_the_next_one_still_opens(bench: Bench, wrapped: bytes) -> None:
    with pytest.raises(WrongContext):
        bench.source.open_partition_key(bench.keks[0], wrapped, Purpose.DATASET)
    key, good = bench.source.new_partition_key(bench.keks[0], Purpose.DATASET)
    assert bench.source.open_partition_key(bench.keks[0], good, Purpose.DATASET).view() == key.view()


def test_the_state_of_the_kek_counts(bench: Bench) -> None:
    one, other = bench.keks
    _, wrapped = bench.source.new_partition_key(one, Purpose.DATASET)
    _, elsewhere = bench.source.new_partition_key(other, Purpose.DATASET)
    bench.backend.deactivate(other)
    with pytest.raises(KeyNotActive):
        bench.source.new_partition_key(other, Purpose.DATASET)
    bench.clock.advance(100)
    with pytest.raises(KeyExpired) as expired:
        bench.source.open_partition_key(one, wrapped, Purpose.DATASET)
    assert expired.value.hint
    bench.backend.request_destroy(other, "alice")
    bench.backend.destroy(other, "bob")
    with pytest.raises(KeyDestroyed, match=str(other)):
        bench.source.open_partition_key(other, elsewhere, Purpose.DATASET)


def test_the_context_is_as_documented() -> None:
    context = partition_context(KekRef("run/r-1", 258), Purpose.CHECKPOINT)
    assert context == b"STKC\x01" + b"\x00\x07run/r-1" + b"\x00\x00\x01\x02" + b"\x0acheckpoint"


def test_no_two_triples_share_a_context() -> None:
    refs = [KekRef(scope, epoch) for scope in ("run/a", "run/ab", "run/a/b") for epoch in (1, 2, 256)]
    contexts = {partition_context(ref, purpose) for ref in refs for purpose in Purpose}
    assert len(contexts) == 36
