"""Products of a block's matrices, in bf16 or in float8 with one scale a tensor. See docs/design/train-gpu.md.

float8: activations and weights as e4m3, gradients as e5m2, sums in fp32 on the tensor cores, results in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from stoker.train.fused.kernels.cast import cast_both, raise_amax

FORWARD: Final = torch.float8_e4m3fn
GRADIENT: Final = torch.float8_e5m2


@dataclass(frozen=True, slots=True)
class Small:
    """A matrix in float8: by rows, turned, and the fp32 factor of its scale; either form may be empty."""

    rows: Tensor
    turned: Tensor
    factor: Tensor


def amax_for(like: Tensor) -> Tensor:
    """A scalar that kernels raise to a largest magnitude."""
    return torch.zeros((), dtype=torch.float32, device=like.device)


def small(
    x: Tensor, dtype: torch.dtype, amax: Tensor | None = None, *, rows: bool = True, turned: bool = True
) -> Small:
    """`x` `[m, n]` in float8; its largest magnitude is looked for unless it is known."""
    if amax is None:
        amax = amax_for(x)
        raise_amax(x, amax)
    return Small(*cast_both(x, amax, dtype, rows=rows, columns=turned))


def multiply(left: Tensor, left_factor: Tensor, right: Tensor, right_factor: Tensor, *, fast: bool) -> Tensor:
    """`left` `[m, k]` by the transpose of `right` `[n, k]`, both float8 by rows, as bf16 `[m, n]`.

    `fast` sums within the tensor cores in fewer bits, which is usual forward and not for gradients.
    """
    return torch._scaled_mm(
        left,
        right.t(),
        scale_a=left_factor,
        scale_b=right_factor,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )
