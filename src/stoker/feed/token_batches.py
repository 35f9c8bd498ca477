"""Batches of token samples: in runs of some steps, in the wanted type, in memory of their own or used again.

See docs/design/feed.md, "Buffers".
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stoker.core.errors import MissingExtra, StokerError
from stoker.feed.arena import private_memory
from stoker.feed.rows import Batch
from stoker.feed.source import INT64, ReadSettings

if TYPE_CHECKING:
    import torch

RUN_BYTES: Final = 1 << 21
"""About how much is read at once: enough that what a run costs besides its bytes is little."""

MAX_RUN_STEPS: Final = 64
RUNS_AHEAD: Final = 3
MIN_BATCHES_AHEAD: Final = 4


class TokenBatches(abc.ABC):
    """A RunSource of arrays [rows, sample_tokens]. What fills the rows, a subclass says."""

    def __init__(
        self, rows: int, sample_tokens: int, stored: np.dtype[Any], settings: ReadSettings | None
    ) -> None:
        self._settings = settings = settings or ReadSettings()
        self._rows = rows
        self._sample_tokens = sample_tokens
        self._stored = stored
        self._dtype: np.dtype[Any] = np.dtype(np.int64) if settings.dtype == INT64 else stored
        steps = max(1, min(MAX_RUN_STEPS, RUN_BYTES // (rows * sample_tokens * self._dtype.itemsize)))
        ahead = settings.prefetch_batches or max(MIN_BATCHES_AHEAD, (RUNS_AHEAD + 1) * steps - 1)
        self.run_steps = min(steps, max(1, (ahead + 1) // (RUNS_AHEAD + 1)))
        """How many steps are best read at once."""
        self.runs_ahead = max(1, (ahead + 1) // self.run_steps - 1)
        """How many runs may be ready while another is in use."""
        self._scratch: Batch = np.empty((0, sample_tokens), dtype=stored)
        self._ring: list[Batch] = []
        self._turn = 0

    def read(self, step: int) -> Batch:
        """The tokens of this rank's positions in step `step`. Raises what opening a chunk raises."""
        batches, error = self.read_run(range(step, step + 1))
        if error is not None:
            raise error
        return batches[0]

    def read_run(self, steps: range) -> tuple[list[Batch], BaseException | None]:
        """The batches of `steps`, at most `run_steps`; on an error those before it, and the error."""
        rows = self._rows
        block = self._block(len(steps))
        stored = block if self._dtype == self._stored else self._scratch_of(len(block))
        count, error = 0, None
        try:
            while count < len(steps):
                count += self._fill(stored[count * rows : len(steps) * rows], steps[count:])
        except StokerError as failed:  # raised by the step that it belongs to
            error = failed
        filled = count * rows
        if stored is not block:
            np.copyto(block[:filled], stored[:filled])
        batches = block[:filled].reshape(count, rows, self._sample_tokens)
        return list(batches), error

    def wipe(self) -> None:
        """Overwrite every token that is not the caller's and forget every key. Reading may go on."""
        self._scratch.fill(0)
        for block in self._ring:
            block.fill(0)
        self._wipe_rows()

    def wipe_batch(self, batch: Batch) -> None:
        """Overwrite a batch that nobody took."""
        batch.fill(0)

    def as_tensors(self, batch: Batch) -> torch.Tensor:
        """The batch as a tensor over the same memory. Raises MissingExtra without torch."""
        return tokens_as_tensor(batch)

    @abc.abstractmethod
    def _fill(self, rows: Batch, steps: range) -> int:
        """Fill the rows of as many of `steps`, one after another, as can be; says how many.

        Raises what opening a chunk raises when that is needed by the first of them.
        """

    @abc.abstractmethod
    def _wipe_rows(self) -> None:
        """Wipe what the rows are filled from."""

    def _block(self, steps: int) -> Batch:
        """Memory for `steps` batches, side by side as rows."""
        if not self._settings.buffers:
            return np.empty((steps * self._rows, self._sample_tokens), dtype=self._dtype)
        assert steps <= self.run_steps, f"a run of {steps} steps, where {self.run_steps} fit into a buffer"
        self._turn = (self._turn + 1) % (self.runs_ahead + 1)
        while len(self._ring) <= self._turn:
            self._ring.append(self._new_buffer())
        return self._ring[self._turn][: steps * self._rows]

    def _new_buffer(self) -> Batch:
        shape = (self.run_steps * self._rows, self._sample_tokens)
        if self._settings.pin_memory:
            return _pinned(shape, self._dtype)
        count = shape[0] * shape[1]
        memory = private_memory(count * self._dtype.itemsize)
        return np.frombuffer(memory, dtype=self._dtype, count=count).reshape(shape)

    def _scratch_of(self, rows: int) -> Batch:
        if len(self._scratch) < rows:
            self._scratch = np.empty((rows, self._sample_tokens), dtype=self._stored)
        return self._scratch[:rows]


def tokens_as_tensor(batch: Batch) -> torch.Tensor:
    """An array as a tensor over the same memory. Raises MissingExtra without torch."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Tensors need torch, which is not installed.",
            hint="Install the extra 'train' from Stoker's clone, or use next_array().",
        ) from error
    return torch.from_numpy(batch)


def _pinned(shape: tuple[int, int], dtype: np.dtype[Any]) -> Batch:
    import torch

    kind = getattr(torch, dtype.name)
    pinned: Batch = torch.empty(shape, dtype=kind, pin_memory=True).numpy()
    return pinned
