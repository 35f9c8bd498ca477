"""Trains a tiny model over any layout, and in one process, and says in what the two differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed.tensor import DTensor

from stoker.spec.layout import LayoutSpec
from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec
from stoker.spec.run import Kernels, Precision, RunSpec, TrainSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionObjective, VisionSpec
from stoker.train.device import HOST, Arrivals, weights_device
from stoker.train.families import Sizes, family_of
from stoker.train.loss import next_token_loss
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
PICTURES = VisionSpec(image_size=8, channels=2, patch=2, layers=4, width=32, heads=4, ffn_width=48, classes=5)
HIDDEN = replace(PICTURES, objective=VisionObjective.MASKED, decoder_layers=2, decoder_width=16)
CLIPS = SpeechSpec(symbols=tuple("abcde"), mel_bins=16, layers=4, width=32, heads=4, ffn_width=48, kernel=5)
GOLDEN_MODELS = {
    "dense": DENSE,
    "tied": replace(DENSE, tied_embeddings=True),
    "experts": MIXTURE,
    "pictures": PICTURES,
    "hidden patches": HIDDEN,
    "clips": CLIPS,
}


@dataclass(frozen=True)
class Case:
    """One model on one layout."""

    layout: LayoutSpec
    ranks: int = 2
    model: ModelSpec | VisionSpec | SpeechSpec = DENSE
    precision: Precision = Precision.FP32
    kernels: Kernels = Kernels.PLAIN

    @property
    def train(self) -> TrainSpec:
        """The step's settings in this precision."""
        return replace(settings_of(self.model), precision=self.precision, kernels=self.kernels)


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


def columns(spec: VisionSpec | SpeechSpec, count: int = STEPS) -> list[dict[str, torch.Tensor]]:
    """The same global batches of records for everyone."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(count):
        numbers = torch.arange(ROWS) + step * ROWS
        if isinstance(spec, VisionSpec):
            shape = (ROWS, spec.channels, spec.image_size, spec.image_size)
            labels = torch.randint(0, spec.classes, (ROWS,), generator=generator)
            pixels = torch.randn(shape, generator=generator)
            found.append({"pixels": pixels, "labels": labels, "numbers": numbers})
        else:
            waves = torch.randn(ROWS, 4000, generator=generator)
            lengths = torch.randint(3000, 4001, (ROWS,), generator=generator)
            labels = torch.randint(0, len(spec.symbols), (ROWS, 3), generator=generator)
            label_lengths = torch.randint(1, 4, (ROWS,), generator=generator)
            of_clips = {"waves": waves, "lengths": lengths, "numbers": numbers}
            found.append(of_clips | {"labels": labels, "label_lengths": label_lengths})
    return found


def settings_of(spec: ModelSpec | VisionSpec | SpeechSpec) -> TrainSpec:
    """CTC of random clips falls so fast that bf16's noise grows with it: slower there."""
    return replace(TRAIN, learning_rate=2e-3) if isinstance(spec, SpeechSpec) else TRAIN


def built(spec: ModelSpec | VisionSpec | SpeechSpec) -> torch.nn.Module:
    """A model of whichever family, on the meta device."""
    if isinstance(spec, ModelSpec):
        return build_model(spec, VOCABULARY)
    model: torch.nn.Module = family_of(spec).build(spec, Sizes())
    return model


def stream_of(spec: ModelSpec | VisionSpec | SpeechSpec) -> list[Any]:
    """Its batches."""
    return batches() if isinstance(spec, ModelSpec) else columns(spec)


def loss_of(spec: ModelSpec | VisionSpec | SpeechSpec) -> Callable[[torch.nn.Module, Any], torch.Tensor]:
    """Its loss."""
    if isinstance(spec, ModelSpec):
        return next_token_loss
    loss: Callable[[torch.nn.Module, Any], torch.Tensor] = family_of(spec).objective(spec, Sizes()).loss
    return loss


def rows_of(batch: Any, first: int, rows: int) -> Any:
    """A data share of a batch."""
    if isinstance(batch, torch.Tensor):
        return batch[first : first + rows]
    return {name: column[first : first + rows] for name, column in batch.items()}


def train_over(case: Case, device: torch.device = HOST, steps: int = STEPS) -> Course:
    """Train on this rank of a process group; all ranks call it."""
    run = RunSpec(dataset="none", train=case.train, layout=case.layout)
    meshes = Meshes.build(case.layout, device.type, distributed.get_world_size())
    laid = spread(built(case.model), meshes, run)
    model = materialise(laid.model, case.train.seed, device, weights=weights_device(case.layout, device))
    optimizer = build_optimizer(model, case.train, device)
    rows = ROWS // meshes.layout.data_ranks
    first = meshes.data_rank * rows
    course, arrivals = Course(), Arrivals(device)
    learnt = loss_of(case.model)
    for step, batch in enumerate(stream_of(case.model)[:steps], start=1):
        share = arrivals.bring(rows_of(batch, first, rows))
        figures = train_step(model, optimizer, share, case.train, step, loss_of=learnt, spread=laid)
        note(course, figures, model, step)
    return course


def train_alone(model_spec: ModelSpec | VisionSpec | SpeechSpec) -> Course:
    """The same in fp32 in one process, without any mesh."""
    model = materialise(built(model_spec), TRAIN.seed, torch.device("cpu"))
    train = settings_of(model_spec)
    optimizer = build_optimizer(model, train)
    course, learnt = Course(), loss_of(model_spec)
    for step, batch in enumerate(stream_of(model_spec), start=1):
        note(course, train_step(model, optimizer, batch, train, step, loss_of=learnt), model, step)
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
    # What is zero in theory, as of a key's bias, is noise: it is measured by the whole gradient.
    least = tolerance * sum(float(each.norm()) ** 2 for each in alone.gradients.values()) ** 0.5
    for name in sorted(set(gradients) & set(alone.gradients)):
        expected, gradient = alone.gradients[name], gradients[name]
        if gradient.shape != expected.shape:
            found.append(f"the gradient of {name} is {list(gradient.shape)}, alone {list(expected.shape)}")
            continue
        error = float((gradient - expected).norm() / expected.norm().clamp(min=least))
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
