"""How a run saves: standing still until a checkpoint is committed, or only while its state is copied.

Either way all ranks call `save` at the same steps, an error reaches all of them as the same one, and what was
committed before stays. See docs/design/train.md, "Saving in the background".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch
import torch.distributed as distributed
from torch import nn

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.spec.job import CommitRef
from stoker.spec.run import TrainSpec
from stoker.train.checkpoint import save_pieces
from stoker.train.checkpoint_pieces import Piece, pieces_of
from stoker.train.checkpoint_staging import HostBuffers, Staged
from stoker.train.checkpoint_state import scalars_of, tensors_of
from stoker.train.commit_log import Retention
from stoker.train.commit_store import CommitLog, Committed
from stoker.train.device import HOST
from stoker.train.run_objects import RunObjects
from stoker.train.watch.together import told_to_all


@dataclass(frozen=True, slots=True)
class Saved:
    """A committed checkpoint: training stood still for `stall_s`, it was committed after `whole_s`."""

    committed: Committed
    stall_s: float
    whole_s: float
    background: bool


class Saver(Protocol):
    """Saves a run's checkpoints, one at a time."""

    @property
    def newest(self) -> CommitRef | None:
        """The newest checkpoint that is known to be committed; the same on all ranks after `wait`."""
        ...

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        extra: Mapping[str, JsonValue],
    ) -> float | None:
        """Take the state as it is now. Raises what saving, or the save before it, met; all ranks alike.

        Returns for how many seconds training stood still when the rest goes on in the background.
        """
        ...

    def wait(self) -> None:
        """Until nothing is under way. Raises what saving met; all ranks alike."""
        ...

    def settle(self) -> None:
        """Call it before the state is changed: what is being copied of it is copied as it was."""
        ...

    def __enter__(self) -> Saver: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class SavePlace:
    """What all checkpoints of an attempt have in common. `log` is rank 0's alone.

    `told` hears, on rank 0, of each checkpoint once it is committed, before older ones are removed; in the
    background from another thread.
    """

    objects: RunObjects
    rank: int
    log: CommitLog | None
    attempt: int
    retention: Retention
    told: Callable[[Saved], None]
    clock: Clock


class StandingSaver:
    """Saves while training stands still."""

    def __init__(self, place: SavePlace, newest: CommitRef | None = None) -> None:
        self._place = place
        self._buffers = HostBuffers()
        self.newest = newest

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        extra: Mapping[str, JsonValue],
    ) -> None:
        """As Saver says; committed on return."""
        place, begun_s = self._place, self._place.clock.monotonic_s()

        def pieces() -> Sequence[Piece]:
            found = list(pieces_of(tensors_of(model, optimizer)))
            if all(piece.data.device == HOST for piece in found):
                return found
            return self._buffers.copies_of(found).whole()

        committed = save_pieces(
            pieces,
            place.objects,
            rank=place.rank,
            log=place.log,
            attempt=place.attempt,
            step=step,
            retention=place.retention,
            extra=lambda: {"optimizer_groups": scalars_of(model, optimizer), **extra},
        )
        self.newest = told_to_all(committed.reference if committed else None)
        if committed is not None and place.log is not None:
            try:
                place.log.sweep()
            finally:
                stall_s = place.clock.monotonic_s() - begun_s
                place.told(Saved(committed, stall_s, stall_s, background=False))

    def wait(self) -> None:
        """Nothing ever is under way."""

    def settle(self) -> None:
        """Nothing is being copied."""

    def __enter__(self) -> StandingSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class BackgroundSaver:
    """Copies the state to host memory and saves the copy from a thread, beside training.

    At most one checkpoint is under way: the next `save` waits for it. All ranks make and leave it together,
    since it has a process group of its own, so that its collectives never mix with those of training.
    """

    def __init__(self, place: SavePlace, newest: CommitRef | None = None) -> None:
        self._place = place
        self._group = distributed.new_group(backend="gloo")
        self._buffers = HostBuffers()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[CommitRef] | None = None
        self._staged: Staged | None = None
        self.newest = newest

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        extra: Mapping[str, JsonValue],
    ) -> float | None:
        """As Saver says; on return the state may change once `settle` was called."""
        begun_s = self._place.clock.monotonic_s()
        self.wait()
        staged = self._staged = self._buffers.copies_of(list(pieces_of(tensors_of(model, optimizer))))
        whole_extra = {"optimizer_groups": scalars_of(model, optimizer), **extra}
        stall_s = self._place.clock.monotonic_s() - begun_s

        def save_copies() -> CommitRef:
            place = self._place
            with torch.no_grad():
                committed = save_pieces(
                    staged.whole,
                    place.objects,
                    rank=place.rank,
                    log=place.log,
                    attempt=place.attempt,
                    step=step,
                    retention=place.retention,
                    extra=lambda: whole_extra,
                    group=self._group,
                )
                newest = told_to_all(committed.reference if committed else None, self._group)
            if committed is not None and place.log is not None:
                whole_s = place.clock.monotonic_s() - begun_s
                place.told(Saved(committed, stall_s, whole_s, background=True))
                place.log.sweep()
            return newest

        self._under_way = self._thread.submit(save_copies)
        return stall_s

    def settle(self) -> None:
        """As Saver says."""
        staged, self._staged = self._staged, None
        if staged is not None:
            staged.settle()

    def wait(self) -> None:
        """As Saver says."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            self.newest = under_way.result()

    def __enter__(self) -> BackgroundSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A checkpoint that is under way when something else fails is still brought to its end."""
        try:
            if error is None:
                self.wait()
            elif self._under_way is not None:
                self._under_way.exception()
        finally:
            self._thread.shutdown()


def open_saver(
    spec: TrainSpec,
    objects: RunObjects,
    rank: int,
    log: CommitLog | None,
    attempt: int,
    told: Callable[[Saved], None],
    clock: Clock,
    newest: CommitRef | None,
) -> Saver:
    """The saver that a run file asks for; all ranks call it. `newest` is what the attempt resumes from."""
    retention = Retention(spec.keep_checkpoints, spec.keep_every_steps)
    place = SavePlace(objects, rank, log, attempt, retention, told, clock)
    return BackgroundSaver(place, newest) if spec.checkpoint_async else StandingSaver(place, newest)
