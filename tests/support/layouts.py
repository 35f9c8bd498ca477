"""Trains a tiny model over any layout, and in one process, and says in what the two differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as distributed
from torch.distributed.tensor import DTensor

from stoker.spec.layout import LayoutSpec
from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.models import build_model, materialise
from stoker.train.optimizer import build_optimizer
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallelize import spread
from stoker.train.step import StepFigures, train_step
from support.ranks import run_ranks

VOCABULARY = 64
SEQUENCE = 16
ROWS = 8
STEPS = 5
TRAIN = TrainSpec(
    steps=8,
    global_batch=ROWS,
    seed=5,
    warmup_steps=2,
    learning_rate=1e-2,
    gradient_clip=0.5,
    precision=Precision.FP32,
)
GOLDEN = Path(__file__).parents[1] / "train/golden.json"
"""The losses of one process; `cd tests && python -m support.layouts` writes them anew."""

DENSE = ModelSpec(layers=4, width=32, heads=8, kv_heads=4, ffn_width=48, tied_embeddings=False)
MIXTURE = replace(
    DENSE,
    layers=3,
    moe=MoeSpec(experts=4, top_k=2, expert_width=24, shared_experts=1, dense_layers=1, balance_rate=0.01),
)
GOLDEN_MODELS = {"dense": DENSE, "tied": replace(DENSE, tied_embeddings=True), "experts": MIXTURE}


@dataclass(frozen=True)
class Case:
    """One model on one layout."""

    layout: LayoutSpec
    ranks: int = 2
    model: ModelSpec = DENSE
    precision: Precision = Precision.FP32

    @property
    def train(self) -> TrainSpec:
        """The step's settings in this precision."""
        return replace(TRAIN, precision=self.precision)


@dataclass
class Course:
    """What training did: the loss and gradient norm of each step, and the whole first gradient by name.

    `buffers` are those that a checkpoint holds, as they are in the end.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)


def batches(count: int = STEPS) -> list[torch.Tensor]:
    """The same global batches for everyone, `[ROWS, SEQUENCE + 1]`."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCABULARY, (ROWS, SEQUENCE + 1), generator=generator) for _ in range(count)]


def train_over(case: Case) -> Course:
    """Train on this rank of a process group; all ranks call it."""
    run = RunSpec(dataset="none", model=case.model, train=case.train, layout=case.layout)
    meshes = Meshes.build(case.layout, "cpu", distributed.get_world_size())
    laid = spread(build_model(case.model, VOCABULARY), meshes, run)
    model = materialise(laid.model, case.train.seed, torch.device("cpu"))
    optimizer = build_optimizer(model, case.train)
    rows = ROWS // meshes.layout.data_ranks
    first = meshes.data_rank * rows
    course = Course()
    for step, batch in enumerate(batches(), start=1):
        share = batch[first : first + rows]
        figures = train_step(model, optimizer, share, case.train, step, spread=laid)
        note(course, figures, model, step)
    return course


def train_alone(model_spec: ModelSpec) -> Course:
    """The same in fp32 in one process, without any mesh."""
    model = materialise(build_model(model_spec, VOCABULARY), TRAIN.seed, torch.device("cpu"))
    optimizer = build_optimizer(model, TRAIN)
    course = Course()
    for step, batch in enumerate(batches(), start=1):
        note(course, train_step(model, optimizer, batch, TRAIN, step), model, step)
    return course


def note(course: Course, figures: StepFigures, model: torch.nn.Module, step: int) -> None:
    """Write down what a step did; all ranks call it."""
    course.losses.append(figures.loss)
    course.norms.append(figures.grad_norm)
    if step == 1:
        course.gradients = whole_gradients(model)
    own = {name for name, _ in model.named_parameters()}
    course.buffers = {name: value.clone() for name, value in model.state_dict().items() if name not in own}


def courses_of(cases: Mapping[str, Case]) -> dict[str, list[Course]]:
    """Every case's course on each of its ranks; one fork for all cases of as many ranks."""
    found: dict[str, list[Course]] = {}
    for ranks in sorted({case.ranks for case in cases.values()}):
        names = [name for name, case in cases.items() if case.ranks == ranks]

        def run(rank: int, names: Sequence[str] = names) -> list[Course]:
            return [train_over(cases[name]) for name in names]

        by_rank = run_ranks(ranks, run, timeout_s=600.0)
        found |= {name: [courses[index] for courses in by_rank] for index, name in enumerate(names)}
    return found


def whole_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every gradient that this rank has a part of, whole, by name; all ranks of a mesh call it."""
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        found[name] = (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).detach().clone()
    return found


def differences(courses: Sequence[Course], alone: Course, tolerance: float) -> list[str]:
    """Every way in which the ranks' course is not that of one process, in words."""
    found = []
    gradients: dict[str, torch.Tensor] = {}
    for rank, course in enumerate(courses):
        if (course.losses, course.norms) != (courses[0].losses, courses[0].norms):
            found.append(f"rank {rank} saw other figures than rank 0")
        gradients |= course.gradients
    for step, (expected, loss) in enumerate(zip(alone.losses, courses[0].losses, strict=True), start=1):
        if not abs(loss - expected) <= tolerance * expected:
            found.append(f"step {step}: the loss is {loss}, in one process {expected}")
    for step, (expected, norm) in enumerate(zip(alone.norms, courses[0].norms, strict=True), start=1):
        if not abs(norm - expected) <= 10 * tolerance * expected:
            found.append(f"step {step}: the gradient norm is {norm}, in one process {expected}")
    if set(gradients) != set(alone.gradients):
        found.append(f"gradients of {sorted(set(gradients) ^ set(alone.gradients))} are only on one side")
    buffers: dict[str, torch.Tensor] = {}
    for course in courses:
        buffers |= course.buffers
    for name in sorted(set(buffers) | set(alone.buffers)):
        if not (
            name in buffers and name in alone.buffers and torch.allclose(buffers[name], alone.buffers[name])
        ):
            found.append(f"the buffer {name} is {buffers.get(name)}, alone {alone.buffers.get(name)}")
    for name in sorted(set(gradients) & set(alone.gradients)):
        expected, gradient = alone.gradients[name], gradients[name]
        if gradient.shape != expected.shape:
            found.append(f"the gradient of {name} is {list(gradient.shape)}, alone {list(expected.shape)}")
            continue
        error = float((gradient - expected).norm() / expected.norm().clamp(min=1e-9))
        if not error <= 10 * tolerance:
            found.append(f"the gradient of {name} is off by {error:.2e} of its norm")
    return found


def rewrite_golden() -> None:
    """Write the losses of one process anew, after a change that is meant to change them."""
    found = run_ranks(
        1, lambda rank: {name: train_alone(spec).losses for name, spec in GOLDEN_MODELS.items()}
    )
    GOLDEN.write_text(json.dumps(found[0], indent=1) + "\n")


if __name__ == "__main__":
    rewrite_golden()
