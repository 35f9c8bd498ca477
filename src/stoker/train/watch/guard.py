"""Whether a step's update is applied: a pure fold over figures that all ranks share.

Every rank feeds it the same loss and gradient norm, each a result of a sum over all ranks, so every rank
decides the same without asking. Its memory goes into checkpoints, so that a resumed run decides as the
uninterrupted one. See docs/design/watch.md.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.errors import StokerError
from stoker.spec.watch import OnBadStep, WatchSpec

DEVIATION: Final = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""

FLOOR: Final = 0.01
"""The least deviation, as a share of the median: not everything is a spike where the loss hardly moves."""


class Decision(enum.StrEnum):
    """What becomes of a step."""

    APPLY = "apply"
    SKIP = "skip"
    ROLL_BACK = "roll_back"
    STOP = "stop"


class NonFiniteLoss(StokerError):
    """A step whose loss or gradient is NaN or infinite; its update was not applied."""

    exit_code = 121


class LossSpike(StokerError):
    """A step whose loss is far above those before it; its update was not applied."""

    exit_code = 129


class Guard:
    """Judges each step once, in order."""

    def __init__(self, spec: WatchSpec) -> None:
        self._spec = spec
        self._good: list[float] = []
        self._bad: list[int] = []
        self._judged = 0
        self.reason = ""
        """Why the last step was bad, for people; empty when it was good."""

    def judge(self, step: int, loss: float, grad_norm: float) -> Decision:
        """What becomes of step `step` with this mean loss in nats and this unclipped gradient norm."""
        self._judged += 1
        self.reason = self._fault(loss, grad_norm)
        if not self.reason:
            self._good = [*self._good, loss][-self._spec.spike_window_steps :]
            return Decision.APPLY
        if self._spec.on_bad_step is OnBadStep.STOP:
            return Decision.STOP
        # Counted by judged steps and not by their numbers, which go back with the weights.
        since = self._judged - self._spec.limit_window_steps
        self._bad = [each for each in self._bad if each > since] + [self._judged]
        if len(self._bad) > self._spec.bad_steps_limit:
            self.reason += (
                f"; it is bad step number {len(self._bad)} of the last {self._spec.limit_window_steps}, "
                f"and watch.bad_steps_limit is {self._spec.bad_steps_limit}"
            )
            return Decision.STOP
        return Decision(self._spec.on_bad_step.value)

    def _fault(self, loss: float, grad_norm: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return f"the loss is {loss} and the gradient norm {grad_norm}; both must be finite"
        if not self._spec.spike_deviations or len(self._good) < self._spec.spike_window_steps:
            return ""
        middle = statistics.median(self._good)
        spread = DEVIATION * statistics.median(abs(each - middle) for each in self._good)
        allowed = middle + self._spec.spike_deviations * max(spread, FLOOR * abs(middle))
        if loss <= allowed:
            return ""
        return (
            f"the loss is {loss:.4f}, above {allowed:.4f}: the median of the last {len(self._good)} steps, "
            f"{middle:.4f}, and {self._spec.spike_deviations:g} of their deviations"
        )

    def error(self, step: int, loss: float, grad_norm: float) -> StokerError:
        """What a decision to stop is raised as."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        return (LossSpike if finite else NonFiniteLoss)(
            f"Step {step}: {self.reason}. No weight was changed by this step.",
            hint="Lower train.learning_rate or lengthen train.warmup_steps; the last checkpoint is kept.",
        )

    def state_dict(self) -> Mapping[str, JsonValue]:
        """What it remembers, for a checkpoint."""
        return {"good": list(self._good), "bad": list(self._bad), "judged": self._judged}

    def load_state_dict(self, state: object) -> None:
        """Go on where `state_dict` was taken; a checkpoint of a run without a guard has none."""
        if not isinstance(state, Mapping):
            return
        self._good = [float(each) for each in state["good"]]
        self._bad = [int(each) for each in state["bad"]]
        self._judged = int(state["judged"])
