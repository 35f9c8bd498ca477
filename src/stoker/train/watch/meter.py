"""How fast a step was, and what share of the peak that is. See docs/design/watch.md, "MFU and HFU".

MFU is model FLOPs (forward and backward of every product, causal attention not discounted, nothing that is
recomputed) over the peak; HFU counts recomputed products too. Both are of the whole world: rank 0's step is
everybody's, since ranks wait for one another in every step.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.events import Section
from stoker.spec.run import Precision

FORMULA: Final = (
    "MFU = model FLOPs of a token (forward and backward, all query-key pairs) x tokens/s / peak; "
    "HFU counts recomputed products too"
)

PEAKS: Final[Mapping[str, float]] = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989.4e12,
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100 SXM": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""Dense bf16 FLOP/s of one device, from NVIDIA's data sheets; names as FIELD's sources have them."""

_SIDE: Final = 768
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Peak:
    """FLOP/s of one device, and where the figure is from."""

    flops: float
    name: str


def peak_of(device: torch.device, precision: Precision) -> Peak | None:
    """The data sheet's figure of an accelerator; of a CPU, what matrix products reach here and now.

    None for an accelerator that is not in the table: no share is better than a wrong one.
    """
    if device.type == "cpu":
        return _measured(torch.float32 if precision is Precision.FP32 else torch.bfloat16)
    return peak_by_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_by_name(told: str) -> Peak | None:
    """The data sheet's figure of a card that the driver calls so, as in "NVIDIA H100 80GB HBM3".

    A card for a slot has less power than the same chip on a board, so its form counts too; a part of a card
    (MIG) has no data sheet.
    """
    words = set(re.split(r"[\s-]+", told))
    if "MIG" in words:
        return None
    for name, flops in PEAKS.items():
        chip, _, form = name.partition(" ")
        if chip in words and (form in ("", "SXM") or form in words):
            return Peak(flops, f"{name}, dense bf16, data sheet")
    return None


def _measured(kind: torch.dtype) -> Peak:
    """The best of a few square products, by the threads that this process has."""
    left = torch.ones(_SIDE, _SIDE, dtype=kind)
    torch.mm(left, left)
    best_s = min(_took_s(lambda: torch.mm(left, left)) for _ in range(_TRIES))
    name = str(kind).removeprefix("torch.")
    threads = torch.get_num_threads()
    return Peak(2 * _SIDE**3 / best_s, f"measured: {name} product of {_SIDE}, {threads} threads")


def _took_s(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


class SectionTimes:
    """Passes sections on and adds up how long each took, until it is asked."""

    def __init__(self, tell: Callable[[Section], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._section: Section | None = None
        self._since_s = 0.0
        self._spent_s: dict[Section, float] = {}

    def enter(self, section: Section) -> None:
        """`section` begins now, and the one before ends."""
        self._close()
        self._section = section
        self._tell(section)

    def take(self) -> Mapping[Section, float]:
        """Seconds in each section since the last call."""
        self._close()
        spent_s, self._spent_s, self._section = self._spent_s, {}, None
        return spent_s

    def _close(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._section is not None:
            self._spent_s[self._section] = self._spent_s.get(self._section, 0.0) + now_s - self._since_s
        self._since_s = now_s


@dataclass(frozen=True, slots=True)
class Meter:
    """What a step's time means.

    `flops_per_token` are model FLOPs of forward and backward; `recomputed_per_token` those that are done
    again, None where the compiler chooses them; `peak` is one device's, of which there are `devices`.
    """

    flops_per_token: float
    recomputed_per_token: float | None
    peak: Peak | None
    devices: int

    def facts(self) -> Mapping[str, JsonValue]:
        """What does not change from step to step, told once."""
        return {
            "flops_per_token": self.flops_per_token,
            "recomputed_per_token": self.recomputed_per_token,
            "peak_flops": None if self.peak is None else self.peak.flops * self.devices,
            "peak": "unknown device" if self.peak is None else f"{self.devices} x {self.peak.name}",
            "formula": FORMULA,
        }

    def figures(
        self,
        *,
        tokens: int,
        samples: int,
        step_s: float,
        parts_s: Mapping[Section, float],
        device: torch.device,
    ) -> Mapping[str, JsonValue]:
        """Of one step of `tokens` tokens in `samples` samples of the global batch, which took `step_s`."""
        rate = tokens / step_s if step_s > 0 else 0.0
        told: dict[str, JsonValue] = {
            "tokens_per_s": round(rate, 3),
            "samples_per_s": round(samples / step_s if step_s > 0 else 0.0, 3),
        }
        if self.peak is not None:
            whole = self.peak.flops * self.devices
            told["mfu"] = round(self.flops_per_token * rate / whole, 6)
            if self.recomputed_per_token is not None:
                told["hfu"] = round((self.flops_per_token + self.recomputed_per_token) * rate / whole, 6)
        for section, spent_s in sorted(parts_s.items()):
            told[f"{section.value}_s"] = round(spent_s, 6)
        told["memory_peak_bytes"] = memory_peak_bytes(device)
        return told


def memory_peak_bytes(device: torch.device) -> int:
    """The most that this process has held: of an accelerator's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
