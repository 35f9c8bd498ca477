"""Random numbers that belong to a sample: whatever the layout, the same sample draws the same ones."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_GOLDEN: Final = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 and the two below as signed 64-bit numbers
_FIRST: Final = -0x40A7B892E31B1A47
_SECOND: Final = -0x6B2FB644ECCEEE15


def noise(numbers: Tensor, width: int) -> Tensor:
    """int64 `[rows, width]`, at least 0: SplitMix64's finaliser over each row's number and each place."""
    places = torch.arange(1, width + 1, dtype=torch.int64, device=numbers.device)
    mixed = _mix(_mix(numbers.unsqueeze(1) * _GOLDEN) + places * _GOLDEN)
    return mixed >> 1 & 0x7FFFFFFFFFFFFFFF


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in, as of an unsigned number."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
