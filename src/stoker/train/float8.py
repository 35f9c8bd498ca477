"""Matrix products in eight bits, in the linear layers of the blocks. See docs/design/layout.md, "Eight bits".

Activations and weights are e4m3, gradients e5m2 (Micikevicius et al. 2022), sums fp32, results in the
stream's type. `float8` has one scale a tensor, `float8_rowwise` one a row, `mxfp8` one power of two for each
32 elements along the sum, all e4m3 (OCP MX 1.0). Weights stay as they are, so names, optimizer and
checkpoints know nothing of this. Where the hardware has no such product, `Small.product` multiplies what the
eight bits stand for in fp32: a reference for numbers, not for speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.run import EIGHT_BITS, Precision, TrainSpec
from stoker.train.hardware import Accelerator, refuse_on_cpu, require_capability

E4M3: Final = torch.float8_e4m3fn
E5M2: Final = torch.float8_e5m2
MX_BLOCK: Final = 32


def require_hardware(train: TrainSpec, device: torch.device) -> None:
    """Raise PrecisionUnsupported unless `device` multiplies in the run's precision itself.

    Raises DeviceMissing where it cannot run the run's kernels.
    """
    precision = train.precision
    if device.type != "cuda":
        refuse_on_cpu(train, f"this rank is on {device}")
        return
    if precision not in EIGHT_BITS:
        return
    told = torch.cuda.get_device_properties(device)
    require_capability(precision, Accelerator(told.name, (told.major, told.minor), told.total_memory))


def use_eight_bits(blocks: list[nn.Module], precision: Precision) -> None:
    """Let the linear layers of `blocks` multiply in `precision`; sizes that do not divide by 32 stay."""
    if precision not in EIGHT_BITS:
        return
    for block in blocks:
        for module in block.modules():
            if type(module) is nn.Linear and not (
                module.in_features % MX_BLOCK or module.out_features % MX_BLOCK
            ):
                module.__class__ = EightBitLinear
                assert isinstance(module, EightBitLinear)
                module.precision = precision


class EightBitLinear(nn.Linear):
    """A linear layer whose three products, forward and backward, are in eight bits."""

    precision: Precision

    def forward(self, input: Tensor) -> Tensor:
        flat = input.reshape(-1, input.shape[-1])
        # The products sum over rows too, for the weight's gradient: their number has to divide as well.
        padded = functional.pad(flat, (0, 0, 0, -flat.shape[0] % MX_BLOCK))
        made: Tensor = _Products.apply(padded, self.weight, self.precision)  # type: ignore[no-untyped-call]
        result = made[: flat.shape[0]].view(*input.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


@dataclass(frozen=True, slots=True)
class Small:
    """A matrix `[m, k]` in eight bits, and their factors: `[1, 1]`, `[m, 1]` or `[m, k / 32]`."""

    bits: Tensor
    factors: Tensor

    @classmethod
    def of(cls, matrix: Tensor, kind: torch.dtype, precision: Precision) -> Small:
        """The nearest numbers after scaling to the type's range; `matrix` is to be summed along its rows."""
        values = matrix.float()
        if precision is Precision.MXFP8:
            blocks = torch.unflatten(values, 1, (-1, MX_BLOCK))
            greatest = blocks.abs().amax(dim=2).clamp(min=2.0**-120)
            # Up, so that nothing is cut off; down, as OCP has it, would cut (Mishra et al. 2025).
            factors = torch.exp2(torch.ceil(torch.log2(greatest / torch.finfo(kind).max)))
            scaled = (blocks / factors.unsqueeze(2)).flatten(1)
        else:
            rowwise = precision is Precision.FLOAT8_ROWWISE
            greatest = values.abs().amax(dim=1, keepdim=True) if rowwise else values.abs().max().view(1, 1)
            factors = greatest.clamp(min=1e-12) / torch.finfo(kind).max
            scaled = values / factors
        limit = torch.finfo(kind).max
        return cls(scaled.clamp(-limit, limit).to(kind), factors)

    def whole(self) -> Tensor:
        """What the eight bits stand for, fp32."""
        values = self.bits.float()
        if self.factors.shape[1] > 1:
            blocks: Tensor = torch.unflatten(values, 1, (-1, MX_BLOCK))
            return (blocks * self.factors.unsqueeze(2)).flatten(1)
        return values * self.factors

    def product(self, other: Small, out: torch.dtype) -> Tensor:
        """`[m, k]` by the transpose of `other` `[n, k]`: `[m, n]`."""
        if self.bits.device.type != "cuda":
            return (self.whole() @ other.whole().T).to(out)
        if self.factors.shape[1] > 1:
            first, second = _swizzled(self.factors), _swizzled(other.factors)
        else:
            first, second = self.factors, other.factors.T.contiguous()
            if first.numel() == 1:
                first, second = first.view(()), second.view(())
        return torch._scaled_mm(self.bits, other.bits.t(), scale_a=first, scale_b=second, out_dtype=out)


class _Products(torch.autograd.Function):
    """`input @ weight.T` and its two gradients; every operand is made small along the axis that is summed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, precision: Precision) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.precision = precision
        return Small.of(input, E4M3, precision).product(Small.of(weight, E4M3, precision), input.dtype)

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, Tensor, None]:
        input, weight = ctx.saved_tensors
        precision: Precision = ctx.precision
        gradient = received[0].contiguous()
        # MX has e4m3 for gradients too: a scale for every 32 leaves little need of range.
        kind = E4M3 if precision is Precision.MXFP8 else E5M2
        to_input = Small.of(gradient, kind, precision).product(
            Small.of(weight.T.contiguous(), E4M3, precision), input.dtype
        )
        to_weight = Small.of(gradient.T.contiguous(), kind, precision).product(
            Small.of(input.T.contiguous(), E4M3, precision), weight.dtype
        )
        return to_input, to_weight, None


def _swizzled(factors: Tensor) -> Tensor:
    """Powers of two `[rows, blocks]` as e8m0 in the order of 128 × 4 tiles that Blackwell's cuBLAS reads.

    Not measured: no such card was at hand.
    """
    rows, blocks = factors.shape
    padded = functional.pad(factors, (0, -blocks % 4, 0, -rows % 128), value=1.0).to(torch.float8_e8m0fnu)
    tiles = padded.view(-1, 128, padded.shape[1] // 4, 4).permute(0, 2, 1, 3)
    return tiles.reshape(-1, 4, 32, 4).transpose(1, 2).reshape(-1, 32, 16).flatten()
