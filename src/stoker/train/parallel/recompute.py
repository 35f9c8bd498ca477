"""Recompute and compile, block by block. See docs/design/layout.md.

Both replace a block's `forward`, so that names of parameters stay and FSDP's hooks, which gather weights
before a block and drop them after it, stand outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
import torch._functorch.config as functorch_config
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from stoker.spec.layout import CompileUnit, LayoutSpec, Recompute
from stoker.train.models.moe import GroupedExperts

BACKEND = "inductor"
"""torch.compile's; tests take one that compiles no C++."""

_MESHES_HOLD_NOTHING: Final = "unsafe_treat_script_objects_as_zero_size"
_ATEN: Final[Any] = torch.ops.aten
KEPT: Final[tuple[Any, ...]] = (
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
    _ATEN._scaled_mm.default,
    _ATEN._grouped_mm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
)
"""Operators whose results selective recompute keeps: all that cost much for what they hold."""


def recompute_blocks(blocks: Sequence[nn.Module], layout: LayoutSpec) -> None:
    """Compute activations again in the backward pass, as `layout.recompute` says."""
    if layout.recompute is Recompute.BUDGET:
        # The compiler's partitioner reads it: 1 keeps what it would keep anyway, 0 nothing but inputs.
        functorch_config.activation_memory_budget = layout.recompute_budget
        # Over tp, cp and ep meshes are among a block's inputs. They hold no tensor, which torch cannot know.
        if hasattr(functorch_config, _MESHES_HOLD_NOTHING):  # an older torch does not ask
            setattr(functorch_config, _MESHES_HOLD_NOTHING, True)
        return
    if layout.recompute is Recompute.NONE:
        return
    named: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if layout.recompute is Recompute.SELECTIVE:
        named["context_fn"] = partial(create_selective_checkpoint_contexts, list(KEPT))
    selective = layout.recompute is Recompute.SELECTIVE
    for region in [region for block in blocks for region in _regions(block, selective and layout.ep > 1)]:
        region.forward = partial(checkpoint, region.forward, **named)


def _regions(block: nn.Module, apart: bool) -> list[nn.Module]:
    """What is recomputed as one: a block, or `apart` its attention and its experts.

    Selective recompute counts every operator of its region, and FSDP's own around experts that it gathers by
    themselves are not the same on the way back.
    """
    if not apart:
        return [block]
    experts = [module for module in block.modules() if isinstance(module, GroupedExperts)]
    attention = getattr(block, "attention", None)
    return [attention, *experts] if experts and isinstance(attention, nn.Module) else [block]


def compile_parts(model: nn.Module, blocks: Sequence[nn.Module], unit: CompileUnit) -> None:
    """Compile each block, or the model with its loss."""
    if unit is CompileUnit.BLOCK:
        # Blocks share their code. Of weights of several shapes torch makes symbols, over tp without an end.
        dynamic = None if _alike(blocks) else False
        for block in blocks:
            block.forward = torch.compile(block.forward, backend=BACKEND, dynamic=dynamic)
    elif unit is CompileUnit.WHOLE:
        embedding = getattr(model, "embedding", None)
        if embedding is not None:
            # Over tp torch notes which tokens are another rank's, and cannot trace that twice: it stays
            # outside, with its hooks. The attribute is where nn.Module.compile puts what is called instead.
            called = torch.compiler.disable(embedding._call_impl)  # type: ignore[no-untyped-call]
            embedding._compiled_call_impl = called
        model.forward = torch.compile(model.forward, backend=BACKEND)


def _alike(blocks: Sequence[nn.Module]) -> bool:
    """Whether parameters of one name have one shape in all blocks."""
    shapes: dict[str, torch.Size] = {}
    named = ((name, each.shape) for block in blocks for name, each in block.named_parameters())
    return all(shapes.setdefault(name, shape) == shape for name, shape in named)
