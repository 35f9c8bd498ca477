"""The commit log in the store: reading on, fencing, committing. Decisions are those of `commit_log`.

Only rank 0 writes. A number that was taken by somebody else is read, and then it is decided again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from stoker.spec.job import CommitRef
from stoker.store.errors import ObjectExists
from stoker.train.checkpoint_errors import BadCommitLog
from stoker.train.commit_log import LogState, Retention, advance, next_commit, next_fence, state_at
from stoker.train.commit_record import Commit
from stoker.train.run_objects import RunObjects


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that is in the log: how the ledger names it, and all bytes that it took, sealed."""

    reference: CommitRef
    sealed_bytes: int


def read_commit(objects: RunObjects, reference: CommitRef) -> Commit:
    """The checkpoint that the ledger recorded as `reference`, and no other.

    Raises BadCommitLog, naming the record, when it is missing, changed, replaced or rolled back.
    """
    sealed = objects.sealed_record(reference.sequence, reference.digest)
    record = objects.open_record(reference.sequence, sealed)
    key = objects.record_key(reference.sequence)
    if not isinstance(record, Commit):
        raise BadCommitLog(f"{key} is a fence, where the ledger recorded a checkpoint.")
    if (record.run, record.sequence, record.step) != (objects.run, reference.sequence, reference.step):
        raise BadCommitLog(
            f"{key} is the checkpoint of step {record.step} of run {record.run[:40]!a}, number "
            f"{record.sequence}; the ledger recorded step {reference.step}."
        )
    return record


class CommitLog:
    """One attempt's hold on the log. `state` is what it has seen so far."""

    def __init__(self, objects: RunObjects, state: LogState, token: str) -> None:
        """Use `begin`."""
        self._objects = objects
        self._token = token
        self.state = state

    @classmethod
    def begin(cls, objects: RunObjects, attempt: int, resume: CommitRef | None) -> CommitLog:
        """Take the log over for `attempt`, continuing from the checkpoint `resume`.

        Reads on from there, or from the beginning, and writes the fence. Raises Fenced when an attempt as new
        or newer has done so before, and BadCommitLog when the log does not hold together.
        """
        state = LogState(objects.run)
        if resume is not None:
            state = state_at(read_commit(objects, resume), resume.digest)
        log = cls(objects, state, secrets.token_hex(16))
        while True:
            log._read_on()
            fence = next_fence(log.state, attempt, log._token, None if resume is None else resume.sequence)
            try:
                digest, _ = objects.write_record(fence)
            except ObjectExists:
                # Somebody was faster; or the store took our own, and only its answer was lost.
                log._read_on()
                if log.state.token == log._token:
                    return log
                continue
            log.state = advance(log.state, fence, digest)
            return log

    @property
    def token(self) -> str:
        """What marks this attempt's records."""
        return self._token

    def commit(self, draft: Commit, retention: Retention) -> Committed:
        """Put `draft` at the end of the log. Raises Fenced when a newer attempt has taken the log over."""
        while True:
            record = next_commit(self.state, draft, retention)
            try:
                digest, record_bytes = self._objects.write_record(record)
            except ObjectExists:
                self._read_on()
                newest = self.state.newest
                if newest is None or newest.prefix != draft.prefix:
                    continue
                # The store took our record, and only its answer was lost.
                digest, record_bytes = self._objects.record_facts(newest.sequence)
                record = replace(record, sequence=newest.sequence)
            else:
                self.state = advance(self.state, record, digest)
            parts_bytes = sum(part.object_bytes for part in record.parts)
            return Committed(CommitRef(record.sequence, record.step, digest), parts_bytes + record_bytes)

    def sweep(self) -> int:
        """Delete the parts of every checkpoint that is not live any more; says how many objects went."""
        live = {kept.prefix for kept in self.state.live}
        stale = [prefix for prefix in self._objects.checkpoint_prefixes() if prefix not in live]
        return sum(self._objects.delete_parts(prefix) for prefix in stale)

    def _read_on(self) -> None:
        while True:
            found = self._objects.read_record(self.state.next_sequence)
            if found is None:
                return
            self.state = advance(self.state, *found)
