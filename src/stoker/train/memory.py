"""What held the memory when there was no more, and which knob helps. See docs/design/layout.md.

The sizes are of this rank's parts alone. What is neither weights, gradients nor optimizer state belongs to
the step: activations, gathered weights, logits and the buffers of operators.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stoker.core.errors import StokerError
from stoker.spec.memory_knobs import state_knobs, step_knobs
from stoker.spec.run import RunSpec

_ASKED: Final = re.compile(r"tried to allocate ([\d.]+) ?([KMGT]iB|bytes)", re.IGNORECASE)
_NONE_LEFT: Final = ("out of memory", "can't allocate memory", "bad_alloc", "STATUS_ALLOC_FAILED")
_MOST_KNOBS: Final = 3
_PAGE_BYTES: Final = resource.getpagesize()


class OutOfMemory(StokerError):
    """A rank asked for more memory than its device, or its machine, has left for it."""

    exit_code = 194


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of one rank on its device. `program`: what the process held before there was a model."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    step: int = 0
    program: int = 0

    @property
    def state(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimizer

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer state": self.optimizer,
            "activations and buffers": self.step,
            "the program itself": self.program,
        }
        return ", ".join(f"{name} {readable(size)}" for name, size in parts.items() if size)


class Memory:
    """One rank's memory on `device`, from before its model is built."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self._spec, self._device = spec, device
        self._program = held_bytes(device)
        self._parameters: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None

    def holds(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """The model is built. Say so between steps: within one, FSDP puts whole weights in shards' places."""
        self._parameters, self._optimizer = list(model.parameters()), optimizer

    def held(self) -> Held:
        """What is held now, and by what."""
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        states: Iterable[Any] = () if self._optimizer is None else self._optimizer.state.values()
        in_states = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        weights, of_gradients, of_states = (
            self._bytes(tensors) for tensors in (self._parameters, gradients, in_states)
        )
        known = self._program + weights + of_gradients + of_states
        rest = max(0, held_bytes(self._device) - known)
        return Held(weights, of_gradients, of_states, rest, self._program)

    def _bytes(self, tensors: Iterable[Tensor]) -> int:
        own = (each.to_local() if isinstance(each, DTensor) else each for each in tensors)
        return sum(each.nbytes for each in own if each.device.type == self._device.type)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within the block what an allocator raises becomes OutOfMemory."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            text = str(error)
            if not isinstance(error, MemoryError) and not any(each in text for each in _NONE_LEFT):
                raise
            # While the error is held, so are its frames, and with them what the step held.
            raise self._story(text) from error

    def _story(self, text: str) -> OutOfMemory:
        held, asked = self.held(), _ASKED.search(text)
        size = "more" if asked is None else f"{_in_words(asked[1], asked[2])} more"
        place = "this machine" if self._device.type == "cpu" else str(self._device)
        when = "in training" if self._parameters else "before its model was built"
        of_step = held.step >= held.state
        knobs = (
            step_knobs(self._spec)
            if of_step and self._parameters
            else state_knobs(self._spec, offload=self._device.type != "cpu")
        )
        found = " or ".join(str(knob) for knob in islice(knobs, _MOST_KNOBS))
        return OutOfMemory(
            f"A rank ran out of memory {when}: it asked {place} for {size} and held {held}.",
            hint=f"Set {found}."
            if found
            else "Take a smaller model or train.global_batch, or a device with more memory.",
        )


def held_bytes(device: torch.device) -> int:
    """What this process holds now: of an accelerator's memory in tensors, of the machine's in all."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE_BYTES


def readable(size: int) -> str:
    """Bytes in the unit that leaves one to four digits before the point."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _in_words(number: str, unit: str) -> str:
    return readable(int(float(number))) if unit == "bytes" else f"{number} {unit}"
