"""Run files name every rule that they break."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.config import Layer, from_plain, load
from stoker.core.errors import ConfigError
from stoker.core.result import plain
from stoker.spec.model import ModelSpec
from stoker.spec.run import RunSpec
from stoker.spec.vision import VisionSpec


def test_the_defaults_hold() -> None:
    assert load(RunSpec, [Layer("f", {"dataset": "d"})]).value.dataset == "d"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"train": {"steps": 0}}, "train: steps is 0; it must be at least 1"),
        ({"train": {"global_batch": 9}, "launch": {"ranks": 2}}, "ranks must divide it: 1, 3, 9"),
        ({"train": {"learning_rate": 0.0}}, "learning_rate is 0.0; it must be finite and above 0"),
        ({"train": {"learning_rate": float("inf")}}, "learning_rate is inf"),
        ({"train": {"beta2": 1.0}}, "beta2 is 1.0"),
        ({"train": {"warmup_steps": -1}}, "warmup_steps is -1"),
        ({"train": {"weight_decay": -0.1}}, "weight_decay is -0.1"),
        ({"train": {"seed": -1}}, "seed is -1"),
        ({"launch": {"ranks": 0}}, "launch: ranks is 0"),
        ({"launch": {"restarts": -1}}, "restarts is -1"),
        ({"launch": {"hang_after_s": 0.0}}, "hang_after_s is 0.0"),
        ({"model": {"heads": 5}}, "model:"),
    ],
)
def test_each_broken_rule_is_named_with_its_value(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(RunSpec, [Layer("run.toml", {"dataset": "d", **table})])
    assert expected in caught.value.message


FITS = {"model": {"qk_norm": False, "tied_embeddings": False}}
"""What fused kernels know."""


def test_fused_kernels_take_what_is_written_out() -> None:
    for more in (
        {},
        {"train": {"kernels": "fused", "precision": "float8"}},
        {"layout": {"recompute": "selective"}},
    ):
        table = {"dataset": "d", "train": {"kernels": "fused"}, **FITS, **more}
        assert load(RunSpec, [Layer("f", table)]).value.model.qk_norm is False


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"model": {}}, "the model has qk_norm, tied_embeddings, which is not written out"),
        ({"model": {**FITS["model"], "head_width": 8}}, "the model has head_width"),
        ({"model": {**FITS["model"], "moe": {"experts": 4}}}, "the model has moe"),
        ({"vision": {"classes": 10}}, "which computes a [model] alone"),
        ({**FITS, "layout": {"tp": 2}}, "layout.tp 2; a fused block is whole"),
        ({**FITS, "layout": {"cp": 2}}, "layout.cp 2; a fused block is whole"),
        ({**FITS, "layout": {"compile": "block"}}, "layout.compile 'block'; one of them makes the kernels"),
        (
            {**FITS, "layout": {"pp": 2, "schedule": "zero_bubble", "micro_batches": 4}},
            "layout.schedule 'zero_bubble', which goes back twice",
        ),
        ({**FITS, "layout": {"recompute": "full"}}, "layout.recompute 'full'; a fused block makes its norms"),
        ({"model": {**FITS["model"], "width": 192, "heads": 4}}, "heads of 48 elements, no power of two"),
        ({**FITS, "train": {"precision": "mxfp8"}}, "'mxfp8'; fused blocks know fp32, bf16, float8"),
    ],
)
def test_what_fused_kernels_cannot_compute_is_named_with_the_way_out(
    table: dict[str, Any], expected: str
) -> None:
    whole = {"dataset": "d", **table, "train": {"kernels": "fused", **table.get("train", {})}}
    with pytest.raises(ConfigError) as caught:
        load(RunSpec, [Layer("run.toml", whole)])
    assert expected in caught.value.message


def _parts(*weights: float) -> list[dict[str, Any]]:
    return [{"dataset": f"d{number}", "weight": weight} for number, weight in enumerate(weights)]


def test_a_mixture_stands_in_place_of_a_dataset() -> None:
    spec = load(RunSpec, [Layer("f", {"mixture": _parts(0.7, 0.3)})]).value
    assert spec.datasets == ("d0", "d1")
    assert [part.weight for part in spec.mixture] == [0.7, 0.3]
    assert RunSpec(dataset="d").datasets == ("d",)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, "dataset is required and missing"),
        ({"dataset": "d", "mixture": _parts(1.0)}, "dataset is 'd' and [[mixture]] names datasets too"),
        ({"mixture": [*_parts(0.5), *_parts(0.5)]}, "mixture names d0 more than once"),
        ({"mixture": _parts(0.7, 0.2)}, "The nearest in the same proportion: 0.778, 0.222"),
        ({"mixture": _parts(1.5)}, "the weight of part 0 is 1.5; a weight is above 0 and at most 1"),
        ({"mixture": [{"dataset": "d"}]}, "mixture[0].weight: is required and missing"),
        ({"mixture": [{"dataset": "d", "weight": 1, "split": "x"}]}, "mixture[0].split: unknown key"),
    ],
)
def test_a_mixture_that_cannot_be_is_named(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(RunSpec, [Layer("run.toml", table)])
    assert expected in caught.value.message


def test_a_run_file_names_a_model_of_another_family() -> None:
    table = {"dataset": "d", "vision": {"classes": 7}}
    spec = load(RunSpec, [Layer("f", table)]).value
    assert spec.trained == VisionSpec(classes=7)
    assert RunSpec(dataset="d").trained == ModelSpec()
    assert from_plain(RunSpec, plain(spec), "job") == spec


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"vision": {}, "speech": {}}, "[vision], [speech] are in one run file"),
        ({"vision": {}, "model": {"layers": 3}}, "[model], [vision] are in one run file"),
        ({"vision": {"patch": 3}}, "vision: image_size 28 is not divisible by patch 3"),
        ({"speech": {"units": "letters"}}, "speech.units: expected one of characters, words"),
        ({"moderation": {}}, "moderation: neither text nor image is there"),
        ({"moderation": {"text": {"heads": 3}}}, "moderation.text: width 128 is not divisible by heads 3"),
        ({"model": {"moe": {"top_k": 9}}}, "model.moe: top_k is 9; it must be at most experts, 8"),
        ({"model": {"rope_scaling": {"kind": "ntk"}}}, "expected one of linear, llama3, yarn"),
    ],
)
def test_a_family_that_cannot_be_is_named(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(RunSpec, [Layer("run.toml", {"dataset": "d", **table})])
    assert expected in caught.value.message
