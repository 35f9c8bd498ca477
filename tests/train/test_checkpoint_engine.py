"""Resuming the engine: bit by bit on the layout that saved, within 1e-4 of one process on any other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from stoker.spec.job import CommitRef
from stoker.spec.layout import LayoutSpec
from stoker.spec.run import RunSpec
from stoker.train.checkpoint import load_checkpoint, save_checkpoint
from stoker.train.commit_store import CommitLog
from stoker.train.models import materialise
from stoker.train.optimizer import build_optimizer
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallelize import Spread, spread
from stoker.train.step import train_step
from support.layouts import DENSE, MIXTURE, ROWS, Case, built, loss_of, rows_of, stream_of, train_alone
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import open_objects, small_keys

SAVED_AFTER = 2
RANKS = 4
CASES = {
    "shards over tensors": Case(LayoutSpec(dp_shard=2, tp=2), RANKS),
    "stages over shards": Case(LayoutSpec(pp=2, dp_shard=2, micro_batches=2), RANKS),
    "replicas of shards": Case(LayoutSpec(dp_replicate=2, dp_shard=2), RANKS),
    "context over shards": Case(LayoutSpec(dp_shard=2, cp=2), RANKS),
    "experts": Case(LayoutSpec(dp_shard=4, ep=2), RANKS, MIXTURE),
    "experts over tensors": Case(LayoutSpec(dp_shard=2, tp=2, ep=2), RANKS, MIXTURE),
}
DENSE_CASES = [name for name, case in CASES.items() if case.model is not MIXTURE]
ONTO = [
    *zip(DENSE_CASES, [*DENSE_CASES[1:], DENSE_CASES[0]], strict=True),
    ("experts", "experts over tensors"),
    ("experts over tensors", "experts"),
]


@dataclass
class Laid:
    """One model of a case on this rank."""

    case: Case
    spread: Spread
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def over(cls, case: Case, world_size: int, seed: int) -> Laid:
        run = RunSpec(dataset="none", train=case.train, layout=case.layout)
        laid = spread(built(case.model), Meshes.build(case.layout, "cpu", world_size), run)
        model = materialise(laid.model, seed, torch.device("cpu"))
        return cls(case, laid, model, build_optimizer(model, case.train))

    def steps(self, first: int, last: int) -> list[float]:
        """The losses of steps `first` to `last`."""
        meshes = self.spread.meshes
        rows = ROWS // meshes.layout.data_ranks
        losses = []
        for step in range(first, last + 1):
            share = rows_of(stream_of(self.case.model)[step - 1], meshes.data_rank * rows, rows)
            figures = train_step(
                self.model,
                self.optimizer,
                share,
                self.case.train,
                step,
                loss_of=loss_of(self.case.model),
                spread=self.spread,
            )
            losses.append(figures.loss)
        return losses


@dataclass
class Trained:
    """What was saved under each layout, and how training went on there."""

    folder: Path
    keys: MemoryKeys
    references: dict[str, CommitRef]
    later: dict[str, list[float]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every case trained for five steps without a break, saved after the second."""
    folder, keys = tmp_path_factory.mktemp("engine"), small_keys()

    def train(rank: int) -> dict[str, tuple[Any, list[float]]]:
        torch.use_deterministic_algorithms(True)
        found = {}
        for name, case in CASES.items():
            laid = Laid.over(case, RANKS, case.train.seed)
            laid.steps(1, SAVED_AFTER)
            with open_objects(folder / name, keys) as objects:
                done = save_checkpoint(
                    laid.model,
                    laid.optimizer,
                    objects,
                    rank=rank,
                    log=CommitLog.begin(objects, 1, None) if rank == 0 else None,
                    attempt=1,
                    step=SAVED_AFTER,
                    keep=2,
                    extra={},
                )
            found[name] = (done and done.reference, laid.steps(SAVED_AFTER + 1, 5))
        return found

    found = run_ranks(RANKS, train, timeout_s=300.0)[0]
    references = {name: reference for name, (reference, _) in found.items()}
    return Trained(folder, keys, references, {name: later for name, (_, later) in found.items()})


def resumed(trained: Trained, saved: str, case: Case, rank: int, world_size: int) -> list[float]:
    """The later losses of a fresh model under `case` that was filled from what `saved` saved."""
    torch.use_deterministic_algorithms(True)
    laid = Laid.over(case, world_size, seed=99)
    with open_objects(trained.folder / saved, trained.keys) as objects:
        load_checkpoint(
            laid.model,
            laid.optimizer,
            objects,
            trained.references[saved],
        )
    return laid.steps(SAVED_AFTER + 1, 5)


def test_a_run_resumed_on_its_own_layout_goes_on_bit_by_bit(trained: Trained) -> None:
    def run(rank: int) -> dict[str, list[float]]:
        return {name: resumed(trained, name, case, rank, RANKS) for name, case in CASES.items()}

    for found in run_ranks(RANKS, run, timeout_s=300.0):
        assert found == trained.later


def test_a_run_resumed_on_another_layout_goes_on_as_one_process_would(trained: Trained) -> None:
    def run(rank: int) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
        alone = {spec: train_alone(spec).losses[SAVED_AFTER:] for spec in (DENSE, MIXTURE)}
        return {
            (saved, onto): (resumed(trained, saved, CASES[onto], rank, RANKS), alone[CASES[onto].model])
            for saved, onto in ONTO
        }

    for found in run_ranks(RANKS, run, timeout_s=300.0):
        for pair, (losses, expected) in found.items():
            assert losses == pytest.approx(expected, rel=1e-4), pair


def test_a_run_on_four_ranks_goes_on_alone(trained: Trained) -> None:
    def run(rank: int) -> dict[str, tuple[list[float], list[float]]]:
        return {
            name: (
                resumed(trained, name, Case(LayoutSpec(), 1, case.model), rank, 1),
                train_alone(case.model).losses[SAVED_AFTER:],
            )
            for name, case in CASES.items()
        }

    for name, (losses, expected) in run_ranks(1, run, timeout_s=300.0)[0].items():
        assert losses == pytest.approx(expected, rel=1e-4), name
