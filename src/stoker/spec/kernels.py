"""What the fused kernels can compute; this needs neither torch nor Triton. See docs/design/train-gpu.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from stoker.spec.layout import SPLIT_BACKWARD, CompileUnit, LayoutSpec, Recompute
from stoker.spec.model import ModelSpec

PRECISIONS: Final = ("fp32", "bf16", "float8")
"""Values of `train.precision` that are written out."""


NOT_WRITTEN_OUT: Final = ("qk_norm", "tied_embeddings", "qkv_bias", "moe", "rope_scaling")
"""What a decoder may have that fused blocks have not."""


def fits(spec: ModelSpec) -> bool:
    """Whether a decoder of this shape is written out."""
    even = spec.query_width == spec.width and spec.head_elements & (spec.head_elements - 1) == 0
    return even and not any(getattr(spec, name) for name in NOT_WRITTEN_OUT)


def kernel_problems(model: ModelSpec | None, layout: LayoutSpec, precision: str) -> Iterator[str]:
    """One sentence for each reason why fused kernels cannot compute a run; no `model`: it is no decoder."""
    if model is None:
        yield "train.kernels is 'fused', which computes a [model] alone; set train.kernels=plain."
        return
    if any(True for _ in model.problems()):
        return  # told by their own section
    odd = [name for name in NOT_WRITTEN_OUT if getattr(model, name)]
    if model.query_width != model.width:
        odd.append(f"head_width {model.head_width}")
    if model.head_elements & (model.head_elements - 1):
        odd.append(f"heads of {model.head_elements} elements, no power of two")
    if odd:
        yield (
            f"train.kernels is 'fused' and the model has {', '.join(odd)}, which is not written out; "
            "set train.kernels=plain."
        )
    split = [f"{axis} {getattr(layout, axis)}" for axis in ("tp", "cp", "ep") if getattr(layout, axis) > 1]
    if split:
        yield (
            f"train.kernels is 'fused' and layout.{', layout.'.join(split)}; a fused block is whole, so set "
            "them to 1 or train.kernels=plain."
        )
    if layout.pp > 1 and layout.schedule in SPLIT_BACKWARD:
        yield (
            f"train.kernels is 'fused' and layout.schedule '{layout.schedule}', which goes back twice "
            "through a block; take 1f1b or interleaved."
        )
    if layout.compile is not CompileUnit.NONE:
        yield (
            f"train.kernels is 'fused' and layout.compile '{layout.compile}'; one of them makes the kernels: "
            "set layout.compile=none or train.kernels=plain."
        )
    if layout.recompute not in (Recompute.NONE, Recompute.SELECTIVE):
        yield (
            f"train.kernels is 'fused' and layout.recompute '{layout.recompute}'; a fused block makes its "
            "norms and SwiGLU again at most: set layout.recompute=selective or none."
        )
    if precision not in PRECISIONS:
        yield (
            f"train.kernels is 'fused' and train.precision '{precision}'; fused blocks know "
            f"{', '.join(PRECISIONS)}."
        )
