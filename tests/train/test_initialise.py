"""First weights: the same on every layout, and no rank draws what is not its own."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec
from stoker.train.models import build_model, initialise, materialise
from stoker.train.models.decoder import Decoder
from support.ranks import run_ranks

CPU = torch.device("cpu")
SPEC = ModelSpec(
    layers=2,
    width=24,
    heads=4,
    kv_heads=2,
    ffn_width=40,
    moe=MoeSpec(experts=6, expert_width=10, shared_experts=1, dense_layers=1),
)


def _whole(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in model.named_parameters()
    }


def _fsdp(model: Decoder) -> None:
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("dp_shard",))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _tensors_and_fsdp(model: Decoder) -> None:
    """Matrices sharded twice along one dimension, experts by columns, then by rows."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
    dense: Any = model.blocks[0]
    plan = {
        "attention.query": ColwiseParallel(),
        "attention.output": RowwiseParallel(),
        "feed_forward.gate": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(),
    }
    parallelize_module(dense, mesh["tp"], plan)
    experts: Any = model.blocks[1].feed_forward.experts
    for name, placement in (("gate", Shard(1)), ("down", Shard(2))):
        weight = distribute_tensor(getattr(experts, name), mesh["tp"], [placement], src_data_rank=None)
        experts.register_parameter(name, nn.Parameter(weight))
    for block in model.blocks:
        fully_shard(block, mesh=mesh["dp_shard"])


def _experts_apart(model: Decoder) -> None:
    """Each rank has whole experts, as expert parallelism has it."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_replicate", "ep"))
    experts: Any = model.blocks[1].feed_forward.experts
    for name in ("gate", "up", "down"):
        weight = distribute_tensor(getattr(experts, name), mesh, [Replicate(), Shard(0)], src_data_rank=None)
        experts.register_parameter(name, nn.Parameter(weight))


@pytest.mark.parametrize("large", [1 << 28, 300])
@pytest.mark.parametrize("lay", [_fsdp, _tensors_and_fsdp, _experts_apart])
def test_every_layout_starts_from_the_same_weights(
    lay: Any, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialise, "LARGE_ELEMENTS", large)
    monkeypatch.setattr(initialise, "RUN_ELEMENTS", 100)

    def weights(rank: int) -> tuple[dict[str, Tensor], int]:
        drawn = 0
        plainly = initialise.draw

        def counting(seed: str, shape: tuple[int, ...], deviation: float) -> Tensor:
            nonlocal drawn
            result = plainly(seed, shape, deviation)
            drawn += result.numel()
            return result

        initialise.draw = counting
        model = build_model(SPEC, 50)
        lay(model)
        return _whole(materialise(model, 9, CPU)), drawn

    plain = _whole(materialise(build_model(SPEC, 50), 9, CPU))
    results = run_ranks(4, weights)
    for found, _ in results:
        assert set(found) == set(plain)
        for name in plain:
            assert torch.equal(found[name], plain[name]), name
    if lay is _fsdp and large == 300:
        # Runs and experts at the borders of two ranks are drawn by both.
        matrices = sum(value.numel() for value in plain.values() if value.dim() > 1)
        assert sum(drawn for _, drawn in results) < 2.2 * matrices


def test_runs_of_a_large_matrix_have_generators_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initialise, "LARGE_ELEMENTS", 50 * 24)
    monkeypatch.setattr(initialise, "RUN_ELEMENTS", 24 * 20)
    found = _whole(materialise(build_model(SPEC, 50), 9, CPU))["embedding.weight"]
    for run, rows in enumerate([20, 20, 10]):
        digest = hashlib.sha256(f"9/embedding.weight/{run}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        expected = torch.empty(rows, 24).normal_(0.0, 24**-0.5, generator=generator)
        assert torch.equal(found[20 * run : 20 * run + rows], expected)


def test_a_matrix_of_usual_size_has_one_generator_as_ever() -> None:
    found = _whole(materialise(build_model(SPEC, 50), 9, CPU))["blocks.0.attention.output.weight"]
    digest = hashlib.sha256(b"9/blocks.0.attention.output.weight").digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    assert torch.equal(found, torch.empty(24, 24).normal_(0.0, 24**-0.5 / 2.0, generator=generator))
