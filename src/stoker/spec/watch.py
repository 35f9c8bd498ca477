"""What a run does about a step whose loss or gradient cannot be right. See docs/design/watch.md."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass


class OnBadStep(enum.StrEnum):
    """What follows on a bad step."""

    STOP = "stop"
    """The attempt ends with NonFiniteLoss or LossSpike; no weight has changed."""

    SKIP = "skip"
    """The batch is left out: no weight changes, the step counts."""

    ROLL_BACK = "roll_back"
    """Back to the last checkpoint; the batches since then are left out."""


@dataclass(frozen=True, slots=True)
class WatchSpec:
    """When a step is bad, and what follows.

    A loss or gradient norm that is NaN or infinite is always bad. With `spike_deviations` above 0, so is a
    loss that is further above the median of the last `spike_window_steps` good losses than that many of
    their deviations (1.4826 times the median absolute one, at least 1 % of the median). More than
    `bad_steps_limit` bad steps within `limit_window_steps` end the attempt. An evaluation every
    `evaluate_every_steps` (0: only at the end) that has not got better by `min_improvement` for
    `patience` times ends the run early (0: never). `wandb`: figures are also kept as W&B's offline mode
    keeps them; nothing is sent anywhere.
    """

    on_bad_step: OnBadStep = OnBadStep.SKIP
    bad_steps_limit: int = 3
    limit_window_steps: int = 100
    spike_deviations: float = 0.0
    spike_window_steps: int = 64
    evaluate_every_steps: int = 0
    patience: int = 0
    min_improvement: float = 0.0
    wandb: bool = False

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the key and its value."""
        for name in ("bad_steps_limit", "evaluate_every_steps", "patience"):
            if getattr(self, name) < 0:
                yield f"{name} is {getattr(self, name)}; it must be 0 or more."
        if self.limit_window_steps < 1:
            yield f"limit_window_steps is {self.limit_window_steps}; it must be at least 1."
        if not 8 <= self.spike_window_steps <= 1024:
            yield f"spike_window_steps is {self.spike_window_steps}; it must be 8 to 1024."
        for name in ("spike_deviations", "min_improvement"):
            if not 0.0 <= getattr(self, name) < math.inf:
                yield f"{name} is {getattr(self, name)}; it must be finite and 0 or more."
        if self.patience and not self.evaluate_every_steps:
            yield (
                f"patience is {self.patience} and evaluate_every_steps 0; "
                "to stop early, say how often to evaluate."
            )
