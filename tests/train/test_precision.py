"""bf16: units see bf16 weights, shards and sums over ranks, replicas and micro-batches are fp32."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from stoker.spec.layout import LayoutSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.passes import backward
from stoker.train.parallelize import spread
from support.ranks import run_ranks

SMALL = 2.0**-9
"""Beside 1 it is below what bf16 can tell: 1 + SMALL is 1 there."""

MEAN = (1 + SMALL) / 2


class Noting(nn.Linear):
    """Notes the types it computes with."""

    seen: set[torch.dtype]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.seen = {input.dtype, self.weight.dtype}
        return super().forward(input)


class OneBlock(nn.Module):
    """The mean of `weight · x`, whose gradient is the mean of x."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Noting(8, 1, bias=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.blocks[0](x)
        return result


def trained(layout: LayoutSpec, rows: list[float]) -> tuple[set[torch.dtype], set[torch.dtype], torch.Tensor]:
    """With what types the block computed, those of weight and gradient, and the gradient of the mean."""
    run = RunSpec(dataset="none", train=TrainSpec(precision=Precision.BF16), layout=layout)
    with torch.device("meta"):
        plain = OneBlock()
    laid = spread(plain, Meshes.build(layout, "cpu", torch.distributed.get_world_size()), run)
    model = laid.model.to_empty(device="cpu")
    batch = {"x": torch.tensor(rows).unsqueeze(1).expand(-1, 8).contiguous()}
    backward(laid, batch, lambda module, columns: module(columns["x"]).float().mean())
    (weight,) = model.parameters()
    assert isinstance(weight, DTensor)
    assert isinstance(weight.grad, DTensor)
    assert isinstance(plain.blocks[0], Noting)
    return plain.blocks[0].seen, {weight.dtype, weight.grad.dtype}, weight.grad.full_tensor()


@pytest.mark.parametrize(
    ("layout", "rows"),
    [
        (LayoutSpec(), [[1.0], [SMALL]]),
        (LayoutSpec(dp_replicate=2), [[1.0], [SMALL]]),
        (LayoutSpec(micro_batches=2), [[1.0, SMALL], [1.0, SMALL]]),
    ],
)
def test_gradients_of_bf16_units_are_summed_in_fp32(layout: LayoutSpec, rows: list[list[float]]) -> None:
    for seen, kept, found in run_ranks(2, lambda rank: trained(layout, rows[rank])):
        assert seen == {torch.bfloat16}
        assert kept == {torch.float32}
        assert found.tolist() == [[MEAN] * 8]
    assert torch.tensor(MEAN, dtype=torch.bfloat16).item() != MEAN
