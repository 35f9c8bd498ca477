"""A second store for checkpoints: copies of sealed objects, made beside training, brought back when needed.

The first store is near and fast, the second far and lasting. A copy is the same bytes by the same names, so
nothing in it is readable there, and the record still binds it. See docs/design/train.md, "Two levels".
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final

from stoker.core.errors import StokerError
from stoker.spec.job import CommitRef
from stoker.store.errors import ObjectExists, ObjectMissing
from stoker.store.objects import ObjectStore
from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointLost
from stoker.train.commit_record import Part
from stoker.train.commit_store import read_commit
from stoker.train.run_objects import RunObjects, number_of

BLOCK_BYTES: Final = 8 << 20
_UNDER_WAY: Final = 2


def copy_checkpoint(objects: RunObjects, target: ObjectStore, reference: CommitRef) -> int:
    """Put the checkpoint `reference` of `objects` into `target` too; says how many bytes went there.

    Every part is opened whole before it is copied. Parts go first, then the log's records in their order, so
    whoever finds a record finds what it names. What is there already, of the right length, stays. Raises
    BadCommitLog, BadCheckpointPart and what either store raises.
    """
    record = read_commit(objects, reference)
    sent = 0
    for part in record.parts:
        if _size(target, part.key) != part.object_bytes:
            objects.read_part(part, record.version, number_of(part.key))
            sent += _copy(objects.store, target, part.key, part.object_bytes)
    missing = []
    for sequence in range(reference.sequence, -1, -1):
        key = objects.record_key(sequence)
        if _size(target, key) is not None:
            break
        missing.append(key)
    for key in reversed(missing):
        size = _size(objects.store, key)
        if size is not None:  # a log that was itself brought back begins later
            sent += _copy(objects.store, target, key, size)
    return sent


def sweep_copies(objects: RunObjects, target: ObjectStore, reference: CommitRef) -> int:
    """Remove from `target` what the checkpoint `reference` no longer keeps; says how many objects went."""
    record = read_commit(objects, reference)
    live = {record.prefix, *(kept.prefix for kept in record.kept)}
    folder = record.prefix.rpartition("/")[0]
    stale = {key.rpartition("/")[0] for key in target.list(folder)} - live
    return sum(target.delete_prefix(prefix) for prefix in sorted(stale))


def bring_back(objects: RunObjects, second: ObjectStore, reference: CommitRef) -> int:
    """Give the first store what it lacks of the checkpoint `reference`; says how many bytes it was given.

    Only what is missing or of another length is taken for lacking. Raises CheckpointLost, naming the object,
    when the second store does not have it either.
    """
    key = objects.record_key(reference.sequence)
    if _size(objects.store, key) is None:
        copied = RunObjects.over(second, objects)
        try:
            return copy_checkpoint(copied, objects.store, reference)
        except ObjectMissing as error:
            raise _lost(reference, error.message) from error
        except StokerError as error:
            if _size(second, key) is None:
                raise _lost(reference, f"{key} is missing.") from error
            raise
    record = read_commit(objects, reference)
    given = 0
    for part in record.parts:
        if _size(objects.store, part.key) != part.object_bytes:
            given += _bring(objects, second, part, reference)
    return given


class SecondLevel:
    """Copies a run's checkpoints as they are committed, from a thread; training never waits for it.

    While copies are slower than checkpoints come, those in between are left out. A copy that fails is told to
    `warn` and does no harm; the next one is a whole one again.
    """

    def __init__(
        self,
        objects: RunObjects,
        second: ObjectStore,
        *,
        every_steps: int = 0,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`every_steps`: of which steps checkpoints are copied; 0: of all."""
        self._objects = objects
        self._second = second
        self._every_steps = every_steps
        self._warn = warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="second-level")
        self._guard = threading.Lock()
        self._waiting: list[CommitRef] = []
        self._last: Future[None] | None = None
        self.copied: list[int] = []
        """The steps whose checkpoints were copied."""

    def committed(self, reference: CommitRef) -> None:
        """A checkpoint is in the first store."""
        if self._every_steps and reference.step % self._every_steps:
            return
        with self._guard:
            self._waiting.append(reference)
            del self._waiting[:-_UNDER_WAY]
        self._last = self._thread.submit(self._copy_next)

    def bring_back(self, reference: CommitRef) -> int:
        """As the function of this name."""
        return bring_back(self._objects, self._second, reference)

    def __enter__(self) -> SecondLevel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the copies that were begun."""
        self._thread.shutdown()

    def wait(self) -> None:
        """Until everything that was committed is copied, or has failed."""
        if self._last is not None:
            self._last.result()

    def _copy_next(self) -> None:
        with self._guard:
            if not self._waiting:
                return
            reference = self._waiting.pop(0)
        try:
            copy_checkpoint(self._objects, self._second, reference)
            sweep_copies(self._objects, self._second, reference)
        except StokerError as error:
            self._warn(
                f"The checkpoint of step {reference.step} was not copied to {self._second.place}: "
                f"{error.message}"
            )
        else:
            self.copied.append(reference.step)


def _bring(objects: RunObjects, second: ObjectStore, part: Part, reference: CommitRef) -> int:
    try:
        with contextlib.suppress(ObjectMissing):
            objects.store.delete(part.key)
        return _copy(second, objects.store, part.key, part.object_bytes)
    except ObjectMissing as error:
        raise _lost(reference, error.message) from error


def _copy(source: ObjectStore, target: ObjectStore, key: str, size: int) -> int:
    """The object as it is; an object of another length in its place is replaced."""
    there = _size(target, key)
    if there == size:
        return 0
    if there is not None:
        target.delete(key)
    try:
        with source.reading(key) as opened, target.writing(key) as sink:
            if opened.size() != size:
                raise BadCheckpointPart(f"{key} in {source.place} has {opened.size()} bytes, not {size}.")
            for start in range(0, size, BLOCK_BYTES):
                sink.write(opened.read(start, min(BLOCK_BYTES, size - start)))
    except ObjectExists:
        if _size(target, key) != size:
            raise
    return size


def _size(store: ObjectStore, key: str) -> int | None:
    try:
        return store.size(key)
    except ObjectMissing:
        return None


def _lost(reference: CommitRef, why: str) -> CheckpointLost:
    return CheckpointLost(
        f"The checkpoint of step {reference.step} is whole in neither store: {why}",
        hint="Restore the store from a copy you trust.",
    )
