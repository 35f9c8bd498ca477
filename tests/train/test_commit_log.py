"""The commit log's meaning: whoever interleaves whatever, a fenced attempt never gets a checkpoint in."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.train.checkpoint_errors import BadCommitLog, Fenced
from stoker.train.commit_log import LogState, Retention, advance, fold, next_commit, next_fence, state_at
from stoker.train.commit_record import Commit, Kept, Record, encode_record

RUN = "r-00000000000000000001"


def digest_of(record: Record) -> str:
    return hashlib.sha256(encode_record(record)).hexdigest()


def draft(attempt: int, step: int, token: str) -> Commit:
    return Commit(
        run=RUN,
        sequence=0,
        previous="",
        attempt=attempt,
        token=token,
        step=step,
        prefix=f"runs/{RUN}/checkpoints/{attempt}-{step}",
        version="0" * 32,
        parts=(),
        kept=(),
        metadata={},
        extra={},
    )


class Log:
    """A list that is created by conditional put, and writers that may know only its beginning."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def view(self, length: int) -> LogState:
        return fold(LogState(RUN), ((record, digest_of(record)) for record in self.records[:length]))

    def create(self, record: Record) -> bool:
        if record.sequence != len(self.records):
            return False
        self.records.append(record)
        return True


def token_of(attempt: int) -> str:
    return f"{attempt:032x}"


STEPS = st.lists(
    st.tuples(st.sampled_from(["fence", "commit", "read"]), st.integers(1, 4)), min_size=1, max_size=60
)


@given(STEPS, st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_no_interleaving_lets_a_fenced_attempt_commit(steps: list[tuple[str, int]], keep: int) -> None:
    log = Log()
    known: dict[int, int] = {}
    newest_fence = 0
    for number, (deed, attempt) in enumerate(steps):
        seen = known.setdefault(attempt, len(log.records))
        state = log.view(seen)
        if deed == "read":
            known[attempt] = len(log.records)
            continue
        try:
            record: Record = (
                next_fence(state, attempt, token_of(attempt), None)
                if deed == "fence"
                else next_commit(state, draft(attempt, number, token_of(attempt)), Retention(keep))
            )
        except Fenced:
            assert log.view(len(log.records)).attempt >= attempt or deed == "commit"
            continue
        if log.create(record):
            known[attempt] = len(log.records)
            if isinstance(record, Commit):
                assert attempt == newest_fence
            else:
                assert attempt > newest_fence
                newest_fence = attempt
    final = log.view(len(log.records))
    assert final.attempt == newest_fence
    assert not final.ignored
    assert len(final.live) <= keep
    for kept in final.live:
        record = log.records[kept.sequence]
        assert isinstance(record, Commit)
        assert record.attempt == final.attempt


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 4)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_reader_ignores_what_a_writer_that_asks_nobody_puts_behind_a_fence(
    forged: list[tuple[bool, int, int]],
) -> None:
    state = LogState(RUN)
    newest = 0
    for is_fence, attempt, token in forged:
        if is_fence:
            fence = next_fence(replace(state, attempt=0), attempt, token_of(token), None)
            state = advance(state, fence, digest_of(fence))
            newest = max(newest, attempt)
            assert state.attempt == newest
            continue
        before = state
        commit = replace(draft(attempt, 1, token_of(token)), sequence=state.next_sequence, previous=state.tip)
        state = advance(state, commit, digest_of(commit))
        counted = (attempt, token_of(token)) == (before.attempt, before.token)
        assert (state.ignored == before.ignored) is counted
        assert (commit.sequence in [kept.sequence for kept in state.live]) is counted


def test_a_newer_fence_abandons_checkpoints_after_the_one_it_resumes_from() -> None:
    state = LogState(RUN)
    for record in (next_fence(state, 1, token_of(1), None),):
        state = advance(state, record, digest_of(record))
    for step in (10, 20, 30):
        commit = next_commit(state, draft(1, step, token_of(1)), Retention(3))
        state = advance(state, commit, digest_of(commit))
    assert [kept.step for kept in state.live] == [10, 20, 30]
    fence = next_fence(state, 2, token_of(2), resume=2)
    state = advance(state, fence, digest_of(fence))
    assert [kept.step for kept in state.live] == [10, 20]


def test_the_state_at_a_commit_equals_the_state_folded_from_the_start() -> None:
    state = LogState(RUN)
    fence = next_fence(state, 1, token_of(1), None)
    state = advance(state, fence, digest_of(fence))
    for step in (10, 20, 30):
        commit = next_commit(state, draft(1, step, token_of(1)), Retention(2))
        state = advance(state, commit, digest_of(commit))
    assert state_at(commit, digest_of(commit)) == state
    assert [kept.step for kept in state.live] == [20, 30]


def test_keeping_one_checkpoint_keeps_none_of_the_older_ones() -> None:
    state = LogState(RUN, attempt=1, token=token_of(1), live=(Kept(0, 1, "a"),), next_sequence=1)
    assert next_commit(state, draft(1, 2, token_of(1)), Retention(1)).kept == ()


def test_a_replaced_record_breaks_the_chain_and_is_named() -> None:
    state = LogState(RUN)
    fence = next_fence(state, 1, token_of(1), None)
    state = advance(state, fence, "1" * 64)
    commit = replace(draft(1, 5, token_of(1)), sequence=1, previous="2" * 64)
    with pytest.raises(BadCommitLog, match=r"Record 1 of run .* follows a record 2222222222222222"):
        advance(state, commit, "3" * 64)


def test_a_record_of_another_run_or_place_is_named() -> None:
    state = LogState(RUN)
    fence = next_fence(state, 1, token_of(1), None)
    with pytest.raises(BadCommitLog, match="belongs to run 'r-other'"):
        advance(state, replace(fence, run="r-other"), "1" * 64)
    with pytest.raises(BadCommitLog, match="stands where record 0 should"):
        advance(state, replace(fence, sequence=4), "1" * 64)


def test_checkpoints_of_every_so_many_steps_stay_beside_the_last_ones() -> None:
    state = LogState(RUN, attempt=1, token=token_of(1))
    retention = Retention(last=2, every_steps=10)
    for step in range(5, 45, 5):
        commit = next_commit(state, draft(1, step, token_of(1)), retention)
        state = advance(state, commit, digest_of(commit))
    assert [kept.step for kept in state.live] == [10, 20, 30, 35, 40]
