"""The optimizer gives every world size the same updates, and goes on exactly from its saved state."""

from __future__ import annotations

import io

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from stoker.spec.model import ModelSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.models import build_model, materialise
from stoker.train.muon import Muon, assign_owners, newton_schulz
from stoker.train.optimizer import build_optimizer
from stoker.train.parallelize import parallelize
from stoker.train.step import train_step
from support.ranks import run_ranks

# Rows that two ranks share evenly, unevenly, and fewer rows than there are ranks.
SHAPES = [(8, 6), (5, 12), (1, 4), (12, 5), (6, 6)]


def draw(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_newton_schulz_brings_every_singular_value_near_one(shape: tuple[int, int]) -> None:
    def singular_values(rank: int) -> torch.Tensor:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 7.0
        return torch.linalg.svdvals(newton_schulz(matrix.bfloat16(), 5).float())

    values = run_ranks(1, singular_values)[0]
    assert values.max() < 1.35
    assert values.median() > 0.6


def test_a_gradient_of_zeros_gives_an_update_of_zeros() -> None:
    assert newton_schulz(torch.zeros(4, 6), 5).count_nonzero() == 0


@pytest.mark.parametrize("world_size", [2, 3])
def test_sharded_updates_are_those_of_whole_matrices(world_size: int) -> None:
    def updated(rank: int, sharded: bool) -> list[torch.Tensor]:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))

        def place(tensor: torch.Tensor) -> torch.Tensor:
            return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None) if sharded else tensor

        parameters = [torch.nn.Parameter(place(tensor)) for tensor in draw(1)]
        optimizer = Muon(
            [{"params": parameters, "orthogonalise": True, "weight_decay": 0.1}],
            lr=0.1,
            betas=(0.9, 0.95),
            momentum=0.9,
        )
        for seed in (2, 3):
            for parameter, gradient in zip(parameters, draw(seed), strict=True):
                parameter.grad = place(gradient)
            optimizer.step()
        return [
            parameter.full_tensor().detach() if isinstance(parameter, DTensor) else parameter.detach()
            for parameter in parameters
        ]

    expected = run_ranks(1, lambda rank: updated(rank, False))[0]
    for found in run_ranks(world_size, lambda rank: updated(rank, True)):
        for whole, part in zip(expected, found, strict=True):
            assert torch.equal(whole, part)


def test_on_whole_matrices_it_is_torchs_muon_and_adamw() -> None:
    def after_three_steps(rank: int, ours: bool) -> list[torch.Tensor]:
        matrices, others = draw(1), draw(2)
        parameters = [torch.nn.Parameter(tensor) for tensor in (*matrices, *others)]
        muon, adam = parameters[: len(SHAPES)], parameters[len(SHAPES) :]
        settings = {"lr": 0.05, "weight_decay": 0.1}
        if ours:
            groups = [{"params": muon, "orthogonalise": True, "weight_decay": 0.1}]
            groups.append({"params": adam, "weight_decay": 0.1})
            optimizers: list[torch.optim.Optimizer] = [Muon(groups, lr=0.05, betas=(0.9, 0.95), momentum=0.9)]
        else:
            optimizers = [
                torch.optim.Muon(muon, momentum=0.9, adjust_lr_fn="match_rms_adamw", **settings),
                torch.optim.AdamW(adam, betas=(0.9, 0.95), **settings),
            ]
        for seed in (3, 5, 7):
            for parameter, gradient in zip(parameters, (*draw(seed), *draw(seed + 1)), strict=True):
                parameter.grad = gradient
            for optimizer in optimizers:
                optimizer.step()
        return [parameter.detach() for parameter in parameters]

    expected = run_ranks(1, lambda rank: after_three_steps(rank, False))[0]
    found = run_ranks(1, lambda rank: after_three_steps(rank, True))[0]
    for ours, torchs in zip(found[: len(SHAPES)], expected, strict=False):
        torch.testing.assert_close(ours, torchs, rtol=0.02, atol=0.003)
    for ours, torchs in zip(found[len(SHAPES) :], expected[len(SHAPES) :], strict=True):
        torch.testing.assert_close(ours, torchs)


def test_owners_share_the_work_and_every_matrix_has_one() -> None:
    owners = assign_owners([(256, 256)] * 6 + [(256, 768)] * 6, 3)
    assert [owners[:6].count(rank) for rank in range(3)] == [2, 2, 2]
    assert [owners[6:].count(rank) for rank in range(3)] == [2, 2, 2]
    assert assign_owners([(2, 2)], 4) == [0]


def test_losses_go_on_exactly_from_saved_weights_and_optimizer_state() -> None:
    model_spec = ModelSpec(layers=2, width=24, heads=6, kv_heads=2, ffn_width=40)
    train = TrainSpec(steps=6, warmup_steps=1, precision=Precision.BF16)
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(0, 49, (2, 9), generator=generator) for _ in range(6)]

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("dp_shard",))
        spec = RunSpec(dataset="none", model=model_spec, train=train)
        model = materialise(parallelize(build_model(model_spec, 50), mesh, spec), 0, torch.device("cpu"))
        return model, build_optimizer(model, train)

    def broken_in_two(rank: int) -> tuple[list[float], list[float]]:
        model, optimizer = build()
        whole = []
        saved = io.BytesIO()
        for step, batch in enumerate(batches, start=1):
            whole.append(train_step(model, optimizer, batch + rank, train, step).loss)
            if step == 3:
                state = {
                    "model": {name: value.to_local() for name, value in model.state_dict().items()},
                    "optimizer": get_optimizer_state_dict(model, optimizer),
                }
                torch.save(state, saved)
        saved.seek(0)
        kept = torch.load(saved, weights_only=False)
        model, optimizer = build()
        for name, parameter in model.state_dict().items():
            parameter.to_local().copy_(kept["model"][name])
        set_optimizer_state_dict(model, optimizer, optim_state_dict=kept["optimizer"])
        resumed = [
            train_step(model, optimizer, batches[step - 1] + rank, train, step).loss for step in (4, 5, 6)
        ]
        return whole[3:], resumed

    for uninterrupted, resumed in run_ranks(2, broken_in_two):
        assert resumed == uninterrupted
