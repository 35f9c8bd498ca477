"""What the records of a commit log mean: a pure fold, one record after the other. See docs/design/train.md.

The log is a sequence of objects, each created once by a conditional put under the next number. Whoever
creates number n has seen all numbers below n; so a rank 0 that was left over from an older attempt cannot
commit: either its number is taken, and reading on it finds the newer fence, or its record stands before that
fence and is judged by it. `stoker.train.commit_store` does the reading and writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from stoker.train.checkpoint_errors import BadCommitLog, Fenced
from stoker.train.commit_record import MAX_SEQUENCE, NO_RECORD, Commit, Fence, Kept, Record


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay: the `last` so many, and those of every `every_steps`-th step (0: of none)."""

    last: int
    every_steps: int = 0

    def kept(self, live: Sequence[Kept]) -> tuple[Kept, ...]:
        """Those of `live`, oldest first, that stay when one more is committed."""
        old = len(live) - (self.last - 1)
        return tuple(
            each
            for number, each in enumerate(live)
            if number >= old or (self.every_steps and each.step % self.every_steps == 0)
        )


@dataclass(frozen=True, slots=True)
class LogState:
    """Where a log stands after some records.

    `tip` is the digest of the last record; `attempt` and `token` are those of the fence in force (attempt 0:
    none yet); `live` are the checkpoints that the fence holder's line goes back to and that still have their
    parts, oldest first; `ignored` are the sequences of records that came from an attempt that was over.
    """

    run: str
    next_sequence: int = 0
    tip: str = NO_RECORD
    attempt: int = 0
    token: str = ""
    live: tuple[Kept, ...] = ()
    ignored: tuple[int, ...] = ()

    @property
    def newest(self) -> Kept | None:
        """The newest live checkpoint."""
        return self.live[-1] if self.live else None


def state_at(commit: Commit, digest: str) -> LogState:
    """The state just after `commit`, when `digest` is known to be its record's from outside the store."""
    return LogState(
        run=commit.run,
        next_sequence=commit.sequence + 1,
        tip=digest,
        attempt=commit.attempt,
        token=commit.token,
        live=(*commit.kept, Kept(commit.sequence, commit.step, commit.prefix)),
    )


def advance(state: LogState, record: Record, digest: str) -> LogState:
    """The state after one more `record`, whose sealed bytes have `digest`.

    Raises BadCommitLog when the record is not the next one of this run, or does not follow the tip.
    """
    place = f"Record {record.sequence} of run {state.run}'s commit log"
    if record.run != state.run:
        raise BadCommitLog(f"{place} belongs to run {record.run[:40]!a}.")
    if record.sequence != state.next_sequence:
        raise BadCommitLog(f"{place} stands where record {state.next_sequence} should.")
    if record.previous != state.tip:
        raise BadCommitLog(
            f"{place} follows a record {record.previous[:16]}…, but the one before it is {state.tip[:16]}….",
            hint="A record was replaced or taken from an older copy. Restore it from a copy you trust.",
        )
    moved = replace(state, next_sequence=record.sequence + 1, tip=digest)
    if isinstance(record, Fence):
        if record.attempt <= state.attempt:
            return replace(moved, ignored=(*state.ignored, record.sequence))
        return replace(
            moved, attempt=record.attempt, token=record.token, live=_up_to(state.live, record.resume)
        )
    if (record.attempt, record.token) != (state.attempt, state.token):
        return replace(moved, ignored=(*state.ignored, record.sequence))
    return replace(moved, live=(*record.kept, Kept(record.sequence, record.step, record.prefix)))


def fold(state: LogState, records: Iterable[tuple[Record, str]]) -> LogState:
    """`advance` over records with their digests."""
    for record, digest in records:
        state = advance(state, record, digest)
    return state


def next_fence(state: LogState, attempt: int, token: str, resume: int | None) -> Fence:
    """The fence with which `attempt` takes over. Raises Fenced when one as new or newer stands already."""
    if state.attempt >= attempt:
        raise Fenced(
            f"Attempt {state.attempt} of run {state.run} has taken over; attempt {attempt} may not begin.",
            hint="Only the supervisor starts attempts, each with a higher number than the one before.",
        )
    _check_room(state)
    return Fence(state.run, state.next_sequence, state.tip, attempt, token, resume)


def next_commit(state: LogState, draft: Commit, retention: Retention) -> Commit:
    """`draft` placed at the end of the log, keeping the checkpoints that `retention` says beside it.

    Raises Fenced when the fence in force is not that of the draft's attempt and token.
    """
    if (state.attempt, state.token) != (draft.attempt, draft.token):
        raise Fenced(
            f"Attempt {state.attempt} of run {state.run} has taken over; "
            f"attempt {draft.attempt} may not commit its checkpoint of step {draft.step}.",
            hint="This process was left over from an older attempt and ends here.",
        )
    _check_room(state)
    kept = retention.kept(state.live)
    return replace(draft, sequence=state.next_sequence, previous=state.tip, kept=kept)


def _up_to(live: tuple[Kept, ...], resume: int | None) -> tuple[Kept, ...]:
    return () if resume is None else tuple(kept for kept in live if kept.sequence <= resume)


def _check_room(state: LogState) -> None:
    if state.next_sequence > MAX_SEQUENCE:
        raise BadCommitLog(f"Run {state.run}'s commit log has no number left after {MAX_SEQUENCE}.")
