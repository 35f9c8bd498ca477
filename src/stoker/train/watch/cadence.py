"""After which steps a checkpoint is saved: every so many, or as often as costs least. See train.md.

Rank 0 decides after each checkpoint and all ranks hear it then, so that all of them save after the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as distributed

from stoker.core.canonical import JsonValue
from stoker.spec.reliability import daly_interval_s
from stoker.spec.run import CheckpointEvery, TrainSpec

MOST_S: Final = 3_600.0
"""No interval is longer, since what is believed of failures may be wrong."""

_SMOOTH: Final = 0.5
_MICRO: Final = 1e6


@dataclass(frozen=True, slots=True)
class Costs:
    """What a checkpoint and a step cost, smoothed, in seconds; 0 while nothing was measured."""

    write_s: float = 0.0
    step_s: float = 0.0

    def after(self, write_s: float, step_s: float) -> Costs:
        """With one more measurement of each; what is no duration changes nothing."""
        return Costs(_smoothed(self.write_s, write_s), _smoothed(self.step_s, step_s))


def steps_between(costs: Costs, mttf_s: float, at_first: int) -> int:
    """How many steps from one checkpoint to the next: Daly's interval, at least 1 and at most an hour.

    `at_first` while costs or failures are unknown.
    """
    if not (costs.write_s > 0 and costs.step_s > 0 and mttf_s > 0):
        return at_first
    interval_s = min(daly_interval_s(costs.write_s, mttf_s), MOST_S)
    return max(1, round(min(interval_s / costs.step_s, 1e9)))


class Cadence:
    """Whether a step ends with a checkpoint: the same answer on every rank."""

    def __init__(self, spec: TrainSpec, mttf_s: float) -> None:
        self._every = spec.checkpoint_every_steps
        self._auto = spec.checkpoint_every is CheckpointEvery.AUTO
        self._mttf_s = mttf_s
        self._step_s = 0.0
        self.costs = Costs()
        self.interval = self._every
        self._next = self._every

    def begin(self, step: int) -> None:
        """The attempt begins behind `step`, with what is known of costs."""
        self.interval = steps_between(self.costs, self._mttf_s, self._every)
        self._next = step + self.interval

    def took(self, step_s: float) -> None:
        """A step took this long on this rank."""
        self._step_s = _smoothed(self._step_s, step_s)

    def due(self, step: int) -> bool:
        """Whether a checkpoint follows on `step`."""
        return step >= self._next if self._auto else step % self._every == 0

    def saved(self, step: int, write_s: float) -> bool:
        """A checkpoint of `step` made training stand still for `write_s`; whether the interval has changed.

        All ranks call it; what rank 0 measured counts on all of them.
        """
        if not self._auto:
            return False
        told = self.costs.after(write_s, self._step_s)
        before, self.costs = self.interval, _of_rank_0(told)
        self.begin(step)
        return self.interval != before

    def figures(self) -> Mapping[str, JsonValue]:
        """What the interval follows from."""
        return {
            "every_steps": self.interval,
            "write_s": round(self.costs.write_s, 6),
            "step_s": round(self.costs.step_s, 6),
            "mttf_s": round(self._mttf_s, 3),
        }

    def state_dict(self) -> JsonValue:
        """What a later attempt goes on from."""
        return {"write_s": self.costs.write_s, "step_s": self.costs.step_s}

    def load_state_dict(self, state: JsonValue) -> None:
        """As it was told; nothing is known after a checkpoint that does not say."""
        told = state if isinstance(state, Mapping) else {}
        self.costs = Costs(_number(told.get("write_s")), _number(told.get("step_s")))


def _of_rank_0(costs: Costs) -> Costs:
    told = torch.tensor([round(costs.write_s * _MICRO), round(costs.step_s * _MICRO)], dtype=torch.int64)
    if distributed.is_initialized():
        distributed.broadcast(told, 0)
    write, step = told.tolist()
    return Costs(write / _MICRO, step / _MICRO)


def _smoothed(before_s: float, measured_s: float) -> float:
    if not (math.isfinite(measured_s) and measured_s > 0):
        return before_s
    return measured_s if before_s <= 0 else before_s + _SMOOTH * (measured_s - before_s)


def _number(value: JsonValue) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return max(float(value), 0.0) if fine else 0.0  # type: ignore[arg-type]  # it is a number
