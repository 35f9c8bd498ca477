"""The learning rate as a pure function of the step. See docs/design/train-model.md."""

from __future__ import annotations

import math

from stoker.spec.run import Schedule, TrainSpec


def learning_rate_at(step: int, spec: TrainSpec) -> float:
    """Linear warm-up to `learning_rate`, then by the schedule down to its `final_learning_rate_ratio`.

    `step` counts from 1. The last warm-up step has the full rate, the run's last step the final one.
    """
    if step <= spec.warmup_steps:
        return spec.learning_rate * step / spec.warmup_steps
    decay_steps = max(1, spec.steps - spec.warmup_steps)
    done = min(1.0, (step - spec.warmup_steps) / decay_steps)
    low = spec.learning_rate * spec.final_learning_rate_ratio
    return low + (spec.learning_rate - low) * _share_left(done, spec)


def _share_left(done: float, spec: TrainSpec) -> float:
    """How much of the way down is still to go, 1 to 0, when a share `done` of the steps is over."""
    match spec.schedule:
        case Schedule.COSINE:
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case Schedule.LINEAR:
            return 1.0 - done
        case Schedule.STABLE:
            return min(1.0, (1.0 - done) / spec.decay_share) if spec.decay_share else 1.0
