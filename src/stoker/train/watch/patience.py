"""When an evaluation within a run is due, and when enough brought nothing. See docs/design/watch.md."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stoker.core.canonical import JsonValue
from stoker.spec.watch import WatchSpec


class Patience:
    """Remembers the best evaluation. All ranks feed it the same figures, so all decide the same."""

    def __init__(self, spec: WatchSpec) -> None:
        self._spec = spec
        self.best = math.inf
        self.best_step = 0
        self._in_vain = 0

    def asks(self, step: int, steps: int) -> bool:
        """Whether to evaluate after `step`; after the last of `steps` the run does so anyway."""
        every = self._spec.evaluate_every_steps
        return every > 0 and step % every == 0 and step < steps

    def spent(self, step: int, score: float) -> bool:
        """Take an evaluation; whether the run ends with it."""
        if score < self.best - self._spec.min_improvement:
            self.best, self.best_step, self._in_vain = score, step, 0
        else:
            self._in_vain += 1
        return 0 < self._spec.patience <= self._in_vain

    def state_dict(self) -> Mapping[str, JsonValue]:
        """What it remembers, for a checkpoint; bits are None before the first evaluation."""
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "best_step": self.best_step, "in_vain": self._in_vain}

    def load_state_dict(self, state: object) -> None:
        """Go on where `state_dict` was taken; a checkpoint of a run without it has none."""
        if not isinstance(state, Mapping):
            return
        best = state["best"]
        self.best = math.inf if best is None else float(best)
        self.best_step, self._in_vain = int(state["best_step"]), int(state["in_vain"])
