"""Rotation, and moving what survives to the next epoch: what opens before and after, and what does not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.intake.garbage import Because
from stoker.intake.life import expire_dataset
from stoker.keys.death import Outcome
from stoker.keys.errors import (
    KeyDestroyed,
    KeyExpired,
    KeyInUse,
    KeyNotActive,
    KeyUnknown,
    RewrapRefused,
    WrongContext,
)
from stoker.keys.moves import is_gone, keeper, moves
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource, partition_context
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rewrap import Move, decode_move, encode_move, moved_context
from stoker.keys.rotation import (
    compromise_key,
    epochs_of,
    newest_epoch,
    resume_key,
    rotate_key,
    sealing_kek,
    suspend_key,
)
from stoker.keys.states import KekState
from stoker.ledger.records import DatasetRecord, DatasetState
from stoker.store.errors import CorruptStream
from support.key_life import DAY_S, KeyLife
from support.life_home import life_home


@pytest.fixture
def life(tmp_path: Path) -> Iterator[KeyLife]:
    with life_home(tmp_path) as house:
        yield KeyLife(house)


def dataset(life: KeyLife) -> tuple[DatasetRecord, KekRef, np.ndarray]:
    record, written = life.house.tokens(days=100.0)
    return record, KekRef.parse(record.kek), written["train"]


def destroy(life: KeyLife, kek: KekRef) -> None:
    life.request(kek)
    life.emergency(kek)


# -- rotation


def test_after_a_rotation_the_next_epoch_seals_and_the_old_one_opens(life: KeyLife) -> None:
    record, first, written = dataset(life)
    second = life.rotate(first)
    assert second == KekRef(first.scope, 2)
    before, after = life.backend.info(first), life.backend.info(second)
    assert (before.state, after.state) == (KekState.DEACTIVATED, KekState.ACTIVE)
    assert after.expires_s == before.expires_s, "a rotation gives data no more time"
    with pytest.raises(KeyNotActive):
        BackendKeySource(life.backend).new_partition_key(first, Purpose.DATASET)
    assert np.array_equal(life.read(record), written)
    assert (sealing_kek(life.backend, first), newest_epoch(life.backend, first.scope)) == (second, second)
    assert epochs_of(life.backend, first) == (first, second)
    assert life.acts(first)[-1] == ("hands", "key.rotate")


def test_a_scope_without_a_key_and_a_dataset_under_way_are_not_rotated(life: KeyLife) -> None:
    with pytest.raises(KeyUnknown):
        life.rotate(KekRef("dataset/nothing/v1", 1))
    made = life.house.backend.create_kek("dataset/text/under-way", Purpose.DATASET, expires_s=None)
    with pytest.raises(KeyInUse, match="not recorded yet"):
        life.rotate(made)
    assert life.backend.info(made).state is KekState.ACTIVE


def test_the_key_of_a_live_runs_checkpoints_is_not_rotated(life: KeyLife) -> None:
    record, _, _ = dataset(life)
    run = life.house.run(record)
    own = life.house.backend.create_kek(f"run/{run}", Purpose.CHECKPOINT, expires_s=None)
    with pytest.raises(KeyInUse, match=run):
        life.rotate(own)
    assert (
        rotate_key(
            own.scope,
            actor="hands",
            ledger=life.house.ledger,
            backend=life.backend,
            may_live=lambda _: False,
            dry_run=True,
        ).after
        is None
    )
    assert life.backend.info(own).state is KekState.ACTIVE


# -- moving what survives


def test_what_was_moved_outlives_its_old_key_and_not_the_new_one(life: KeyLife) -> None:
    record, first, written = dataset(life)
    headers = {key: bytes(life.house.store.get(key)) for key in life.house.objects(record)}
    second = life.rotate(first)
    told = life.rewrap(first, dry_run=True)
    report = life.rewrap(first)
    assert (told.partition_keys, told.streams) == (report.partition_keys, report.streams) == (1, 5)
    assert (report.to, report.left_keys) == (str(second), 0)
    destroy(life, first)
    assert life.prove(first).holds, "the old key itself opens nothing"
    assert np.array_equal(life.read(record), written)
    assert life.house.now(record).state is DatasetState.LIVE
    assert not is_gone(life.house.ledger, str(first))
    now = {key: bytes(life.house.store.get(key)) for key in headers}
    assert now == headers, "no stream was written"
    assert life.house.gc().collected == ()
    destroy(life, second)
    with pytest.raises(KeyDestroyed):
        life.read(record)
    assert is_gone(life.house.ledger, str(first))
    assert life.house.now(record).state is DatasetState.DESTROYED
    proof = life.prove(second)
    assert proof.holds
    assert proof.canary is not None and proof.canary.startswith("store: "), "what was moved to it is tried"
    by_replica = {trial.replica: trial for trial in proof.trials}
    assert by_replica["store"].refused == {"key-destroyed": 5}
    assert [each.because for each in life.house.gc().collected] == [Because.DESTROYED]


def test_a_key_that_keeps_what_was_moved_to_it_and_still_opens_is_found(
    life: KeyLife, tmp_path: Path
) -> None:
    """Its own streams are those that another KEK sealed: the moved keys beside them are tried."""
    _, first, _ = dataset(life)
    second = life.rotate(first)
    life.rewrap(first)
    shutil.copytree(life.house.home.keys_dir, tmp_path / "kept")
    destroy(life, second)
    kept = open_backend((tmp_path / "kept").as_uri(), clock=life.house.clock, passphrase=None)
    life.house = replace(life.house, backend=kept)
    outcomes = {trial.replica: trial.outcome for trial in life.prove(second).trials}
    assert (outcomes["key back end"], outcomes["store"]) == (Outcome.OPENED, Outcome.OPENED)


def test_moving_needs_a_later_epoch(life: KeyLife) -> None:
    _, first, _ = dataset(life)
    with pytest.raises(RewrapRefused, match="no active later epoch"):
        life.rewrap(first)
    second = life.rotate(first)
    with pytest.raises(RewrapRefused):
        life.rewrap(second)


def test_what_was_moved_twice_is_kept_by_the_last_epoch(life: KeyLife) -> None:
    record, first, written = dataset(life)
    second = life.rotate(first)
    life.rewrap(first)
    destroy(life, first)
    third = life.rotate(second)
    report = life.rewrap(second)
    assert (report.partition_keys, report.to) == (1, str(third))
    assert keeper(str(first), moves(life.house.ledger)) == str(third)
    destroy(life, second)
    assert np.array_equal(life.read(record), written)
    destroy(life, third)
    with pytest.raises(KeyDestroyed):
        life.read(record)


def test_a_compromised_key_opens_only_to_move_what_survives(life: KeyLife) -> None:
    record, first, written = dataset(life)
    compromise_key(
        first, actor="decider", reason="the laptop is gone", ledger=life.house.ledger, backend=life.backend
    )
    with pytest.raises(KeyNotActive, match="compromised"):
        life.read(record)
    life.rotate(first)
    life.rewrap(first)
    assert np.array_equal(life.read(record), written)
    assert life.acts(first)[0] == ("decider", "key.compromise")
    destroy(life, first)
    canary = life.prove(first).canary
    assert canary is not None and canary.startswith("store: "), "it opened until it died, and that is proved"


def test_a_suspended_key_opens_nothing_until_it_is_resumed(life: KeyLife) -> None:
    record, first, written = dataset(life)
    ledger, backend = life.house.ledger, life.backend
    suspend_key(first, actor="decider", reason="an odd sign", ledger=ledger, backend=backend)
    with pytest.raises(KeyNotActive, match="suspended"):
        life.read(record)
    resume_key(first, actor="hands", ledger=ledger, backend=backend)
    assert np.array_equal(life.read(record), written)


def test_a_move_gives_data_no_more_time(life: KeyLife) -> None:
    record, first, _ = dataset(life)
    second = life.rotate(first)
    life.rewrap(first)
    destroy(life, first)
    soon = life.house.clock.now_s() + DAY_S
    expire_dataset(
        life.house.now(record),
        soon,
        actor="asker",
        ledger=life.house.ledger,
        backend=life.backend,
        clock=life.house.clock,
    )
    assert life.backend.info(second).expires_s == soon
    life.house.clock.advance(DAY_S)
    with pytest.raises(KeyExpired):
        life.read(record)


def test_a_key_that_does_not_open_stays_behind_and_is_named(life: KeyLife) -> None:
    record, first, _ = dataset(life)
    name = life.house.objects(record)[0]
    other = life.house.backend.create_kek("dataset/other/v1", Purpose.DATASET, expires_s=None)
    key, foreign = BackendKeySource(life.backend).new_partition_key(other, Purpose.DATASET)
    key.wipe()
    stream = bytearray(life.house.store.get(name))
    at = stream.index(b"STKW")
    stream[at : at + len(foreign)] = foreign
    life.house.store.delete(name)
    life.house.store.create(name, bytes(stream))
    life.rotate(first)
    report = life.rewrap(first)
    assert (report.left_keys, report.left, report.partition_keys) == (1, (name,), 1)
    assert str(first) not in moves(life.house.ledger), "a move that left something counts as none"


def test_a_changed_or_exchanged_new_wrap_opens_nothing(life: KeyLife) -> None:
    record, first, _ = dataset(life)
    life.rotate(first)
    (name,) = life.rewrap(first).objects
    destroy(life, first)
    data = bytearray(life.house.store.get(name))
    data[-1] ^= 1
    life.house.store.delete(name)
    life.house.store.create(name, bytes(data))
    with pytest.raises(CorruptStream):
        life.read(record)
    life.house.store.delete(name)
    with pytest.raises(KeyDestroyed):
        life.read(record)


def test_new_wraps_that_were_exchanged_open_nothing(life: KeyLife) -> None:
    """Who may write the store must not make one stream's key open another's."""
    _, first, _ = dataset(life)
    second = KekRef(first.scope, 2)
    keys = BackendKeySource(life.backend)
    held = []
    for _number in range(2):
        key, wrapped = keys.new_partition_key(first, Purpose.DATASET)
        held.append((key, wrapped))
    life.rotate(first)
    context = partition_context(first, Purpose.DATASET)
    again = [life.backend.wrap(second, key, moved_context(wrapped, context)) for key, wrapped in held]
    digests = [hashlib.sha256(wrapped).digest() for _, wrapped in held]
    destroy(life, first)
    for order, opens in (((0, 1), True), ((1, 0), False)):
        house = life.things
        name = house.keep(Move(first, second, {digests[n]: again[order[n]] for n in range(2)}))
        for key, wrapped in held:
            if opens:
                with keys.open_partition_key(first, wrapped, Purpose.DATASET) as found:
                    assert found.view() == key.view()
            else:
                with pytest.raises(WrongContext):
                    BackendKeySource(life.backend).open_partition_key(first, wrapped, Purpose.DATASET)
        life.house.store.delete(name)
    for key, _wrapped in held:
        key.wipe()


# -- the bytes of a move


MOVES = st.builds(
    lambda keys, epochs: Move(
        KekRef("dataset/text/v1", min(epochs)), KekRef("dataset/text/v1", max(epochs) + 1), keys
    ),
    st.dictionaries(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=1024), max_size=20),
    st.tuples(st.integers(1, 2**31), st.integers(1, 2**31)),
)


@given(MOVES)
def test_a_move_is_read_as_it_was_written(move: Move) -> None:
    assert decode_move(encode_move(move), "here") == move


@given(st.one_of(st.binary(max_size=300), MOVES.map(encode_move)), st.data())
def test_other_bytes_are_refused_by_name(data: bytes, more: st.DataObject) -> None:
    changed = bytearray(data)
    if changed:
        changed[more.draw(st.integers(0, len(changed) - 1))] ^= more.draw(st.integers(1, 255))
    changed = changed[: more.draw(st.integers(0, len(changed)))]
    try:
        move = decode_move(bytes(changed), "an object")
    except RewrapRefused as refused:
        assert "an object" in refused.message
    else:
        assert encode_move(move) == bytes(changed), "two spellings of one move"
