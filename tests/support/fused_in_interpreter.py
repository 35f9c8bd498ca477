"""Run as a program: the fused decoder beside the plain one, its kernels in Triton's interpreter.

The interpreter is chosen when Triton is imported, so this is a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from stoker.spec.layout import LayoutSpec, Recompute
from stoker.spec.model import ModelSpec
from stoker.spec.run import Kernels
from stoker.train.fused.adamw import MasterAdamW
from stoker.train.fused.decoder import FusedChoices, FusedDecoder
from stoker.train.fused.kernels.cast import cast_both, raise_amax
from stoker.train.fused.kernels.entropy import cross_entropy_
from stoker.train.fused.plug import FusedHead
from stoker.train.loss import OutputHead, RowLosses, next_token_loss
from stoker.train.models import build_model, materialise
from support.layouts import Case, Course, train_over
from support.ranks import run_ranks

SPEC = ModelSpec(layers=2, width=64, heads=4, kv_heads=2, ffn_width=96, tied_embeddings=False, qk_norm=False)
VOCABULARY = 203
ALPHA = 1e-3
ENGINE_SPEC = replace(SPEC, width=32, heads=2, kv_heads=1, ffn_width=48)
LAYOUTS = {
    "shards": LayoutSpec(recompute=Recompute.SELECTIVE),
    "stages": LayoutSpec(dp_shard=1, pp=2, micro_batches=2),
}


def apart(found: Tensor, wanted: Tensor) -> float:
    """The distance as a share of what is wanted."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def decoder(keep: bool) -> dict[str, Any]:
    """Loss, every gradient, and one update, beside autograd's and torch's AdamW."""
    torch.manual_seed(0)
    plain = materialise(build_model(SPEC, VOCABULARY), 0, torch.device("cpu"))
    fused = FusedDecoder.of(plain, FusedChoices(keep=keep, pieces=3))
    batch = torch.randint(0, VOCABULARY, (2, 17))
    wanted, found = next_token_loss(plain, batch), fused(batch)
    wanted.backward()
    found.backward()
    gradients = {
        "+".join(names): apart(
            own.grad, torch.cat([plain.get_parameter(f"{name}.weight").grad for name in names])
        )
        for own, names in fused.sources()
    }
    norm = MasterAdamW(fused.parameters()).step(ALPHA)
    parameters = list(plain.parameters())
    by_torch = torch.optim.AdamW(
        [
            {"params": [each for each in parameters if each.dim() > 1], "weight_decay": 0.1},
            {"params": [each for each in parameters if each.dim() == 1], "weight_decay": 0.0},
        ],
        lr=ALPHA,
        betas=(0.9, 0.95),
    )
    their_norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    by_torch.step()
    updated = {
        "+".join(names): apart(
            own.data, torch.cat([plain.get_parameter(f"{name}.weight").data for name in names])
        )
        for own, names in fused.sources()
    }
    return {
        "loss": [found.item(), wanted.item()],
        "norm": [float(norm), float(their_norm)],
        "gradients": gradients,
        "updated": updated,
    }


def entropy() -> dict[str, Any]:
    """Losses and gradients where logits are large, and where rows are wider than a block."""
    generator = torch.Generator().manual_seed(4)
    logits = 40 * torch.randn(5, 20_000, generator=generator)
    targets = torch.randint(0, 20_000, (5,), generator=generator)
    leaf = logits.clone().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(leaf, targets, reduction="none")
    wanted.sum().backward()
    gradient = copy.deepcopy(logits)
    losses = cross_entropy_(gradient, targets, 1.0)
    assert leaf.grad is not None
    return {"losses": apart(losses, wanted), "gradient": apart(gradient, leaf.grad)}


def by_row() -> dict[str, Any]:
    """What the fused head tells of each row's loss, beside the plain one."""
    generator = torch.Generator().manual_seed(5)
    hidden, matrix = torch.randn(3, 8, 32, generator=generator), torch.randn(203, 32, generator=generator)
    targets = torch.randint(0, 203, (3, 8), generator=generator)
    told = []
    for head in (FusedHead(3), OutputHead()):
        head.rows = RowLosses()
        head.loss(hidden, matrix, targets)
        told.append(head.rows.take())
    return {"apart": apart(*told), "rows": len(told[0])}


def casting() -> dict[str, Any]:
    """Numbers that float8 has, times a scale: by rows and turned they come out as they went in.

    Other numbers are rounded wrongly where the mantissa overflows, by the interpreter and not by hardware.
    """
    generator = torch.Generator().manual_seed(9)
    wanted = torch.randint(-126, 127, (70, 130), generator=generator, dtype=torch.int8)
    wanted[0, 0] = 126  # the largest number, 448
    wanted = wanted.view(torch.float8_e4m3fn)
    x = torch.where(wanted.float().isfinite(), wanted.float(), torch.zeros(())) / 64
    amax = torch.zeros(())
    raise_amax(x, amax)
    rows, turned, factor = cast_both(x, amax, torch.float8_e4m3fn)
    return {
        "amax": [float(amax), float(x.abs().max())],
        "same": bool(torch.equal(rows.float() * factor, x)),
        "turned": bool(torch.equal(turned.float(), rows.float().t())),
    }


def engine(layout: LayoutSpec) -> dict[str, Any]:
    """Losses, gradient norms and the whole first gradient of two ranks of the engine, by both kernels."""

    def rank(kernels: Kernels) -> Course:
        return train_over(Case(layout, model=ENGINE_SPEC, kernels=kernels), steps=1)

    plain, fused = (
        run_ranks(2, lambda _, kernels=kernels: rank(kernels), timeout_s=600) for kernels in Kernels
    )
    gradients = {
        f"{number}: {name}": apart(gradient, plain[number].gradients[name])
        for number, course in enumerate(fused)
        for name, gradient in course.gradients.items()
    }
    return {
        "losses": [course.losses for course in (*fused, *plain)],
        "norms": [course.norms for course in (*fused, *plain)],
        "gradients": gradients,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"engine": {name: engine(layout) for name, layout in LAYOUTS.items()}}  # forks: before autograd
    found["by row"] = by_row()
    found |= {"keep": decoder(True), "remake": decoder(False), "entropy": entropy(), "casting": casting()}
    json.dump(found, sys.stdout)
