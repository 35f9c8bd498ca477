"""Which decoders are written out; this needs no Triton. See docs/design/train-gpu.md."""

from __future__ import annotations

from stoker.spec.model import ModelSpec


def fits(spec: ModelSpec) -> bool:
    """Whether this shape is written out."""
    plain = not (spec.qk_norm or spec.tied_embeddings or spec.qkv_bias or spec.moe or spec.rope_scaling)
    return plain and spec.query_width == spec.width
