"""Every named configuration is sound and has the parameters that its name, or its publisher, says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from stoker.core.config import Layer, Loaded, from_plain, load
from stoker.core.errors import ConfigError
from stoker.core.result import plain
from stoker.spec.configurations import CONFIGURATIONS, UnknownConfiguration, configuration
from stoker.spec.configured import under_layers
from stoker.spec.layout import LayoutSpec, Schedule
from stoker.spec.model import ModelSpec
from stoker.spec.run import RunSpec

# Trained parameters as published with the models, to the last one.
PUBLISHED = {
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "vit-b-16": 86_567_656,
    "vit-l-16": 304_326_632,
    "vit-h-14": 632_045_800,
}

OURS = [name for name in CONFIGURATIONS if name.startswith(("dense-", "moe-"))]
UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_sound(name: str) -> None:
    found = configuration(name)
    found.spec.validate()
    assert found.name == name
    assert found.active_parameters <= found.parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_has_the_published_parameters(name: str) -> None:
    assert configuration(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", OURS)
def test_a_name_says_how_large_a_model_is(name: str) -> None:
    words = re.findall(r"-(a?)([\d.]+)([mbt])\b", name)
    found = configuration(name)
    counted = [found.parameters, found.active_parameters][: len(words)]
    assert [bool(active) for active, _, _ in words] == [False, True][: len(words)]
    said = [float(number) * UNITS[unit] for _, number, unit in words]
    assert counted == pytest.approx(said, rel=0.1)
    assert (len(words) == 2) == name.startswith("moe-")


def test_sizes_go_from_a_million_to_beyond_a_trillion_dense_and_two_trillion_with_experts() -> None:
    sizes = [found.parameters for name, found in CONFIGURATIONS.items() if name in OURS]
    assert min(sizes) < 1.1e6
    assert configuration("dense-1t").parameters > 1e12
    assert configuration("moe-2t-a70b").parameters > 2e12


@pytest.mark.parametrize("name", ["dense-1t", "moe-2t-a70b", "dense-405b", "moe-675b-a41b"])
def test_large_models_can_be_split_eight_ways_in_every_block(name: str) -> None:
    spec = configuration(name).spec
    assert isinstance(spec, ModelSpec)
    widths = (spec.heads, spec.kv_heads, spec.ffn_width // 128, spec.expert_width // 128)
    assert all(width % 8 == 0 or width % 4 == 0 for width in widths)
    assert configuration(name).vocabulary % 1024 == 0


def test_no_name_is_nearly_a_name() -> None:
    with pytest.raises(UnknownConfiguration, match=r"no configuration 'dense-2t'") as caught:
        configuration("dense-2t")
    assert "dense-1t" in caught.value.hint


def _loaded(table: dict[str, Any], overrides: Sequence[str] = ()) -> Loaded[RunSpec]:
    layers = under_layers([Layer("run.toml", {"dataset": "d", **table})], overrides)
    return load(RunSpec, layers, overrides)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_run_file_may_name_any_of_them(name: str) -> None:
    spec = _loaded({"configuration": name}).value
    assert spec.trained == configuration(name).spec
    assert from_plain(RunSpec, plain(spec), "the ledger") == spec


def test_what_a_run_file_says_besides_counts_more() -> None:
    loaded = _loaded({"configuration": "dense-1m", "model": {"layers": 2}}, ["model.width=256"])
    assert loaded.value.model == replace(configuration("dense-1m").spec, layers=2, width=256)
    assert loaded.origins["model.heads"] == "configuration dense-1m"
    assert loaded.origins["model.layers"] == "run.toml"


def test_the_command_line_names_another() -> None:
    loaded = _loaded({"configuration": "dense-1m"}, ["configuration=vit-b-16"])
    assert loaded.value.trained == configuration("vit-b-16").spec
    assert loaded.value.configuration == "vit-b-16"


def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(UnknownConfiguration):
        _loaded({"configuration": "dense-9t"})
    with pytest.raises(ConfigError, match=r"run\.toml: configuration: expected text"):
        _loaded({"configuration": 7})


@pytest.mark.parametrize(
    ("name", "layout", "batch"),
    [
        (
            "dense-1t",
            LayoutSpec(
                pp=16,
                dp_shard=128,
                tp=8,
                micro_batches=32,
                schedule=Schedule.INTERLEAVED,
                stages_per_rank=2,
                sequence_parallel=True,
            ),
            4096,
        ),
        ("moe-2t-a70b", LayoutSpec(pp=8, dp_shard=256, tp=8, ep=64, micro_batches=16), 4096),
        ("moe-675b-a41b", LayoutSpec(dp_replicate=4, dp_shard=512, cp=2, tp=4, ep=256), 2048),
    ],
)
def test_the_largest_can_be_laid_over_16384_ranks(name: str, layout: LayoutSpec, batch: int) -> None:
    found = configuration(name)
    assert isinstance(found.spec, ModelSpec)
    assert list(layout.problems(found.spec, found.vocabulary, 8192, batch, 16_384)) == []
