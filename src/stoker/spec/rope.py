"""How a decoder's rotary positions are stretched beyond the length they were trained for.

The three ways in use, with the names and meanings of Hugging Face's `rope_scaling`; the formulas are in
`stoker.train.models.rope`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass


class RopeScaling(enum.StrEnum):
    """A way to stretch."""

    LINEAR = "linear"
    """Every position over `factor` (Chen et al. 2023)."""

    LLAMA3 = "llama3"
    """Slow turns over `factor`, fast ones as they are, a blend between (Llama 3.1)."""

    YARN = "yarn"
    """The same by a ramp over dimensions, and attention made sharper (Peng et al. 2023)."""


@dataclass(frozen=True, slots=True)
class RopeScalingSpec:
    """`original_tokens` is the length that the unscaled positions were trained for.

    `low_frequency_factor` and `high_frequency_factor` are of LLAMA3, `beta_fast`, `beta_slow` and
    `attention_factor` (0: 0.1 · ln(factor) + 1) of YARN.
    """

    kind: RopeScaling = RopeScaling.LLAMA3
    factor: float = 8.0
    original_tokens: int = 8192
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        if not (math.isfinite(self.factor) and self.factor >= 1):
            yield f"factor is {self.factor}; it must be a number, 1 or more"
        if self.original_tokens < 1:
            yield f"original_tokens is {self.original_tokens}; it must be at least 1"
        for low, high in (("low_frequency_factor", "high_frequency_factor"), ("beta_slow", "beta_fast")):
            if not 0 < getattr(self, low) < getattr(self, high) < math.inf:
                yield (
                    f"{low} is {getattr(self, low)} and {high} {getattr(self, high)}; "
                    "both must be above 0, and the second larger"
                )
        if not (math.isfinite(self.attention_factor) and self.attention_factor >= 0):
            yield f"attention_factor is {self.attention_factor}; it must be a number, 0 or more"

    @property
    def attention_scale(self) -> float:
        """What cosine and sine are multiplied with: 1 but for YARN."""
        if self.kind is not RopeScaling.YARN:
            return 1.0
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0
