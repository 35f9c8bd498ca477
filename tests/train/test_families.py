"""Every family can be built, trained and evaluated by one loop; adding one is a file and a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from stoker.spec.configurations import CONFIGURATIONS
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ModerationSpec, TextTowerSpec
from stoker.spec.moe import MoeSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionObjective, VisionSpec
from stoker.train.families import FAMILIES, Family, Sizes, family_of, shape_of
from stoker.train.models.initialise import materialise
from stoker.train.models.moe import balance_experts
from stoker.train.objectives.gather import gather_rows
from stoker.train.objectives.next_token import NextToken
from stoker.train.objectives.objective import Batch, UnfitBatch, alone
from stoker.train.optimizer import build_optimizer
from stoker.train.parallelize import parallelize
from support.ranks import run_ranks

CPU = torch.device("cpu")
PAGE = (Path(__file__).parents[2] / "docs/design/families.md").read_text()
VOCABULARY = 40

SPECS: dict[str, Any] = {
    "decoder": ModelSpec(layers=2, width=16, heads=2, kv_heads=1, ffn_width=24),
    "experts": ModelSpec(
        layers=2,
        width=16,
        heads=2,
        kv_heads=1,
        ffn_width=24,
        qkv_bias=True,
        moe=MoeSpec(experts=4, expert_width=8, shared_experts=1, dense_layers=1),
    ),
    "classifier": VisionSpec(image_size=8, patch=4, layers=2, width=16, heads=2, ffn_width=24),
    "masked": VisionSpec(
        image_size=8,
        patch=2,
        layers=2,
        width=16,
        heads=2,
        ffn_width=24,
        objective=VisionObjective.MASKED,
        decoder_width=16,
    ),
    "speech": SpeechSpec(mel_bins=16, layers=2, width=16, heads=2, ffn_width=24, kernel=5),
    "moderation": ModerationSpec(
        text=TextTowerSpec(layers=2, width=16, heads=2, ffn_width=24, sequence_tokens=12)
    ),
}


def _batch(name: str) -> Batch:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(0, VOCABULARY, (4, 13), generator=generator)
    if name in ("decoder", "experts"):
        return tokens
    numbers = torch.arange(4)
    if name in ("classifier", "masked"):
        pixels = torch.randn(4, 1, 8, 8, generator=generator)
        return {"pixels": pixels, "labels": numbers, "numbers": numbers}
    if name == "speech":
        return {
            "waves": torch.randn(4, 8000, generator=generator),
            "lengths": torch.tensor([8000, 7000, 6000, 8000]),
            "labels": torch.randint(0, 28, (4, 3), generator=generator),
            "label_lengths": torch.tensor([3, 2, 1, 3]),
        }
    labels = (numbers % 2).float().unsqueeze(1)
    mask = torch.ones(4, 12, dtype=torch.bool)
    return {"tokens": tokens[:, 1:], "mask": mask, "labels": labels, "numbers": numbers // 2}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_every_family_trains_by_the_same_loop_and_optimizer(precision: Precision) -> None:
    spec = TrainSpec(learning_rate=1e-2, precision=precision)

    def train(rank: int) -> dict[str, tuple[float, float, list[str]]]:
        found = {}
        for name, wanted in SPECS.items():
            family, sizes, batch = family_of(wanted), Sizes(VOCABULARY), _batch(name)
            model = materialise(family.build(wanted, sizes), 1, CPU)
            objective = family.objective(wanted, sizes)
            optimizer = build_optimizer(model, spec)
            objective.check(batch)
            losses = []
            for _ in range(8):
                loss = objective.loss(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            without = [key for key, value in model.named_parameters() if value.grad is None]
            assert objective.evaluate(model, [batch], alone)["loss"] < losses[0]
            found[name] = (losses[0], losses[-1], without)
        return found

    for name, (first, last, without) in run_ranks(1, train)[0].items():
        assert last < first, name
        assert without == [], name


def _rows(batch: Batch, rank: int) -> Batch:
    """This rank's half of a batch."""
    if isinstance(batch, Tensor):
        return batch[2 * rank : 2 * rank + 2]
    return {key: column[2 * rank : 2 * rank + 2] for key, column in batch.items()}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_two_sharded_ranks_train_every_family_as_one_process_does(precision: Precision) -> None:
    spec = RunSpec(dataset="none", train=TrainSpec(learning_rate=5e-3, precision=precision))

    def train(rank: int) -> dict[str, list[float]]:
        world = distributed.get_world_size()
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("dp_shard",))
        found = {}
        for name, wanted in SPECS.items():
            family, sizes = family_of(wanted), Sizes(VOCABULARY)
            batch = _batch(name) if world == 1 else _rows(_batch(name), rank)
            model = parallelize(family.build(wanted, sizes), mesh, spec)
            materialise(model, 1, CPU)
            objective = family.objective(wanted, sizes)
            optimizer = build_optimizer(model, spec.train)
            losses = []
            for _ in range(4):
                loss = objective.loss(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                balance_experts(model, distributed.all_reduce)
                mean = loss.detach().double()
                distributed.all_reduce(mean)
                losses.append(mean.item() / world)
            losses.append(objective.evaluate(model, [batch], gather_rows)["loss"])
            found[name] = losses
        return found

    (alone_,) = run_ranks(1, train)
    first, second = run_ranks(2, train)
    assert first == second
    rough = precision is Precision.BF16
    for name, losses in alone_.items():
        assert losses[3] < losses[0], name
        assert first[name] == pytest.approx(losses, rel=2e-2 if rough else 1e-4), name


@pytest.mark.parametrize("name", SPECS)
def test_a_family_has_what_the_engine_relies_on(name: str) -> None:
    spec = SPECS[name]
    model: Any = family_of(spec).build(spec, Sizes(VOCABULARY))
    assert model.spec == spec
    assert isinstance(model.blocks, nn.ModuleList)
    names = [key for key, _ in model.named_parameters()]
    assert all(any(key.endswith(ending) for key in names) for ending in _needed(model, name))
    assert {value.device.type for value in model.parameters()} == {"meta"}


def _needed(model: Any, name: str) -> tuple[str, ...]:
    """The residual outputs that are there; those of experts only where there are experts."""
    endings: tuple[str, ...] = model.residual_outputs
    return tuple(
        each for each in endings if name == "experts" or ("experts" not in each and "shared" not in each)
    )


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_named_configuration_has_the_parameters_of_its_formula(name: str) -> None:
    found = CONFIGURATIONS[name]
    model = family_of(found.spec).build(found.spec, Sizes(found.vocabulary))
    assert sum(parameter.numel() for parameter in model.parameters()) == found.parameters


def test_every_section_of_a_run_file_is_a_family() -> None:
    sections = {"model", "vision", "speech", "moderation"}
    assert set(FAMILIES) == sections
    assert sections <= set(RunSpec.__dataclass_fields__)


def test_shapes_say_the_family_and_the_vocabulary() -> None:
    shapes = [shape_of(spec, Sizes(VOCABULARY)) for spec in SPECS.values()]
    assert len({str(shape) for shape in shapes}) == len(SPECS)
    assert shape_of(ModelSpec(), Sizes(9)) == {"model": ModelSpec().shape(), "vocabulary": 9}


def test_a_decoders_figures_are_of_the_mean_token() -> None:
    model = materialise(family_of(SPECS["decoder"]).build(SPECS["decoder"], Sizes(VOCABULARY)), 1, CPU)
    objective, batch = NextToken(VOCABULARY), _batch("decoder")
    assert isinstance(batch, Tensor)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    figures = objective.evaluate(model, [batch[:2], batch[2:]], alone)
    assert figures["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(expected.exp().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"pixels": torch.zeros(1, 1, 8, 8)}, "takes packed tokens; this dataset has columns pixels"),
        (torch.tensor([[1, VOCABULARY]]), "tokens holds numbers from 1 to 40; the model knows 40 tokens"),
    ],
)
def test_a_decoder_refuses_what_is_no_text(batch: Batch, expected: str) -> None:
    with pytest.raises(UnfitBatch, match=expected):
        NextToken(VOCABULARY).check(batch)


# What docs/design/families.md shows as an example: a family in one file. The test runs the page's own text.


def _example() -> dict[str, Any]:
    code = PAGE.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "stoker.train.models.example"}
    exec(compile(code, "families.md", "exec", dont_inherit=True), names)
    return names


def test_the_pages_example_is_a_family_that_learns() -> None:
    names = _example()
    spec, family = names["SumSpec"](), names["SUM"]
    assert isinstance(family, Family)
    assert not list(spec.problems())
    numbers = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    batch = {"numbers": numbers, "sums": numbers.sum(dim=1)}

    def train(rank: int) -> tuple[float, dict[str, float]]:
        model = materialise(family.build(spec, Sizes()), 1, CPU)
        built = sum(parameter.numel() for parameter in model.parameters())
        assert built == spec.parameters()
        objective = family.objective(spec, Sizes())
        objective.check(batch)
        optimizer = build_optimizer(model, TrainSpec(learning_rate=1e-2, precision=Precision.FP32))
        first = objective.loss(model, batch).item()
        for _ in range(60):
            loss = objective.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return first, objective.evaluate(model, [batch], alone)

    first, figures = run_ranks(1, train)[0]
    assert figures["error"] < 0.1 * first
    with pytest.raises(UnfitBatch, match="sums is missing"):
        family.objective(spec, Sizes()).check({"numbers": numbers})
