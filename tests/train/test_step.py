"""Every layout takes the steps that one process takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from stoker.core.events import Section
from stoker.spec.model import ModelSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.loss import next_token_loss
from stoker.train.models import build_model, materialise
from stoker.train.optimizer import build_optimizer
from stoker.train.parallelize import parallelize, units
from stoker.train.step import StepFigures, train_step
from stoker.train.watch.guard import NonFiniteLoss
from support.ranks import RankFailed, run_ranks

VOCABULARY = 61
MODEL = ModelSpec(layers=2, width=24, heads=6, kv_heads=2, ffn_width=40)
TRAIN = TrainSpec(
    steps=8,
    global_batch=4,
    seed=5,
    warmup_steps=2,
    learning_rate=1e-2,
    gradient_clip=0.5,
    precision=Precision.FP32,
)


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCABULARY, (4, 17), generator=generator) for _ in range(count)]


def sharded(rank: int, train: TrainSpec, model: ModelSpec = MODEL) -> torch.nn.Module:
    world_size = torch.distributed.get_world_size()
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("dp_shard",))
    plain = build_model(model, VOCABULARY)
    spread = parallelize(plain, mesh, RunSpec(dataset="none", model=model, train=train))
    return materialise(spread, train.seed, torch.device("cpu"))


def share(batch: torch.Tensor, rank: int) -> torch.Tensor:
    rows = len(batch) // torch.distributed.get_world_size()
    return batch[rank * rows : (rank + 1) * rows]


def take_steps(rank: int, train: TrainSpec, *, whole: bool, count: int = 5) -> list[StepFigures]:
    if whole:
        model = materialise(build_model(MODEL, VOCABULARY), train.seed, torch.device("cpu"))
    else:
        model = sharded(rank, train)
    optimizer = build_optimizer(model, train)
    return [
        train_step(model, optimizer, batch if whole else share(batch, rank), train, step)
        for step, batch in enumerate(batches(count), start=1)
    ]


@pytest.fixture(scope="module")
def one_process_figures() -> list[StepFigures]:
    return run_ranks(1, lambda rank: take_steps(rank, TRAIN, whole=True))[0]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_world_size_reproduces_the_losses_of_one_process(
    world_size: int, one_process_figures: list[StepFigures]
) -> None:
    by_rank = run_ranks(world_size, lambda rank: take_steps(rank, TRAIN, whole=False))
    for figures in by_rank:
        assert figures == by_rank[0]
    for expected, found in zip(one_process_figures, by_rank[0], strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-4)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3)


@pytest.mark.parametrize(("unit_parameters", "expected"), [(1, [1, 1]), (8_000, [2]), (100_000, [])])
def test_blocks_gathered_one_by_one_together_or_with_the_rest_take_the_same_steps(
    unit_parameters: int,
    expected: list[int],
    one_process_figures: list[StepFigures],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stoker.train.parallelize.UNIT_PARAMETERS", unit_parameters)
    model = build_model(MODEL, VOCABULARY)
    assert [len(unit) for unit in units(model)] == expected
    found = run_ranks(2, lambda rank: take_steps(rank, TRAIN, whole=False))[0]
    for one_process, figures in zip(one_process_figures, found, strict=True):
        assert figures.loss == pytest.approx(one_process.loss, abs=1e-4)


def test_the_loss_falls_on_a_batch_seen_again(one_process_figures: list[StepFigures]) -> None:
    def learn(rank: int) -> list[float]:
        model = sharded(rank, TRAIN)
        optimizer = build_optimizer(model, TRAIN)
        batch = share(batches(1)[0], rank)
        return [train_step(model, optimizer, batch, TRAIN, step).loss for step in range(1, 9)]

    losses = run_ranks(2, learn)[0]
    assert losses[-1] < losses[0] - 0.5


def test_gradients_of_two_ranks_are_those_of_one_process() -> None:
    def gradients(rank: int, whole: bool) -> dict[str, torch.Tensor]:
        if whole:
            model = materialise(build_model(MODEL, VOCABULARY), TRAIN.seed, torch.device("cpu"))
        else:
            model = sharded(rank, TRAIN)
        batch = batches(1)[0]
        next_token_loss(model, batch if whole else share(batch, rank)).backward()
        found = {}
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            found[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        return {name: gradient.clone() for name, gradient in found.items()}

    expected = run_ranks(1, lambda rank: gradients(rank, True))[0]
    found = run_ranks(2, lambda rank: gradients(rank, False))[0]
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_bf16_stays_near_fp32(one_process_figures: list[StepFigures]) -> None:
    train = replace(TRAIN, precision=Precision.BF16)
    found = run_ranks(2, lambda rank: take_steps(rank, train, whole=False))[0]
    for expected, figures in zip(one_process_figures, found, strict=True):
        assert figures.loss == pytest.approx(expected.loss, abs=0.03)


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_changes_no_weight() -> None:
    def poisoned(rank: int) -> tuple[str, int, bool]:
        model = sharded(rank, TRAIN)
        optimizer = build_optimizer(model, TRAIN)
        with torch.no_grad():
            for parameter in model.parameters():
                local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                if rank == 1 and local.numel():
                    local.view(-1)[0] = float("nan")
        before = [parameter.detach().full_tensor().clone() for parameter in model.parameters()]
        try:
            train_step(model, optimizer, share(batches(1)[0], rank), TRAIN, 7)
        except NonFiniteLoss as error:
            after = [parameter.detach().full_tensor() for parameter in model.parameters()]
            same = all(
                torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)
            )
            return str(error), error.exit_code, same
        return "no error", 0, False

    for message, exit_code, same in run_ranks(2, poisoned):
        assert message.startswith("Step 7: the loss is nan")
        assert exit_code == NonFiniteLoss.exit_code
        assert same


def test_a_step_tells_its_sections_in_order() -> None:
    def sections(rank: int) -> list[Section]:
        told: list[Section] = []
        model = sharded(rank, TRAIN)
        train_step(model, build_optimizer(model, TRAIN), batches(1)[0], TRAIN, 1, section=told.append)
        return told

    assert run_ranks(1, sections)[0] == [Section.COMPUTE, Section.OPTIMIZER]


def test_a_rank_that_raises_fails_the_run_with_its_traceback() -> None:
    def fail(rank: int) -> None:
        if rank == 1:
            raise ValueError("rank one is unwell")

    with pytest.raises(RankFailed, match="rank one is unwell"):
        run_ranks(2, fail)
