"""Layouts: every broken rule is told with its values, and the nearest legal layout keeps them all."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from stoker.core.config import Layer, load
from stoker.core.errors import ConfigError
from stoker.spec.layout import (
    CompileUnit,
    ContextParallelism,
    InvalidLayout,
    LayoutSpec,
    Recompute,
    Schedule,
)
from stoker.spec.layout_search import nearest
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ImageTowerSpec, ModerationSpec, TextTowerSpec
from stoker.spec.run import RunSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionObjective, VisionSpec

MODEL = ModelSpec(layers=4, width=64, heads=8, kv_heads=4, ffn_width=96, tied_embeddings=False)


def problems(layout: LayoutSpec, *, ranks: int = 8, batch: int = 16, **model: int | bool) -> str:
    return " ".join(layout.problems(replace(MODEL, **model), 1024, 512, batch, ranks))


@pytest.mark.parametrize(
    ("layout", "ranks", "sentence"),
    [
        (
            LayoutSpec(pp=2, dp_shard=3, micro_batches=2),
            8,
            "pp · dp_replicate · dp_shard · cp · tp = 2 · 1 · 3 · 1 · 1 = 6, and launch.ranks is 8; "
            "they must be equal.",
        ),
        (
            LayoutSpec(tp=3),
            8,
            "pp · dp_replicate · cp · tp = 1 · 1 · 1 · 3 = 3, and launch.ranks is 8; with dp_shard 0, for "
            "what is left, the product must divide it.",
        ),
        (LayoutSpec(tp=8), 8, "tp is 8 and kv_heads 4; tp must divide it."),
        (LayoutSpec(ep=2), 8, "ep is 2 and the model has no experts; ep must be 1."),
        (LayoutSpec(ep=3), 8, "ep is 3, dp_shard 8 and cp 1; ep must divide dp_shard · cp = 8."),
        (
            LayoutSpec(micro_batches=4),
            8,
            "train.global_batch is 16 and dp_replicate · dp_shard · micro_batches = 1 · 8 · 4 = 32; "
            "the product must divide it.",
        ),
        (
            LayoutSpec(cp=8, context=ContextParallelism.ULYSSES),
            8,
            "cp is 8, tp 1, context 'ulysses' and kv_heads 4; tp · cp = 8 must divide it.",
        ),
        (
            LayoutSpec(pp=4, schedule=Schedule.DUALPIPEV, micro_batches=4),
            8,
            "micro_batches is 4, pp 4 and schedule 'dualpipev' with 8 stages; micro_batches must be at "
            "least 8.",
        ),
        (
            LayoutSpec(pp=2, schedule=Schedule.ZERO_BUBBLE, micro_batches=2),
            2,
            "schedule 'zero_bubble' with 4 stages; micro_batches must be at least 4.",
        ),
        (
            LayoutSpec(pp=2, schedule=Schedule.ZBV, micro_batches=2),
            2,
            "schedule 'zbv' with 4 stages; micro_batches must be at least 3.",
        ),
        (
            LayoutSpec(pp=4, schedule=Schedule.ZBV, micro_batches=4),
            8,
            "layers is 4, pp 4 and a rank has 2 stages under schedule 'zbv'; each of the 8 stages needs a "
            "block.",
        ),
        (
            LayoutSpec(pp=2, schedule=Schedule.INTERLEAVED, micro_batches=7),
            2,
            "micro_batches is 7 and pp 2; schedule 'interleaved' works in 3 rounds, which must divide",
        ),
        (LayoutSpec(pp=0), 8, "pp is 0; it must be at least 1."),
        (LayoutSpec(recompute_budget=1.5), 8, "recompute_budget is 1.5; it must be above 0 and below 1."),
        (LayoutSpec(recompute=Recompute.BUDGET), 8, "recompute is 'budget' and compile 'none'"),
        (LayoutSpec(pp=2, compile=CompileUnit.WHOLE, micro_batches=2), 8, "compile is 'whole' and pp 2"),
        (
            LayoutSpec(pp=2, recompute=Recompute.SELECTIVE, schedule=Schedule.ZBV, micro_batches=4),
            8,
            "recompute is 'selective', pp 2 and schedule 'zbv', which goes back twice through a block",
        ),
    ],
)
def test_a_broken_rule_is_told_with_every_value(layout: LayoutSpec, ranks: int, sentence: str) -> None:
    assert sentence in problems(layout, ranks=ranks)


def test_rules_that_need_the_dataset_look_at_vocabulary_and_sequence() -> None:
    odd = LayoutSpec(tp=4).problems(MODEL, 1022, 512, 16, 8)
    assert list(odd) == ["tp is 4 and the vocabulary 1022; tp must divide it."]
    short = LayoutSpec(cp=4).problems(MODEL, 1024, 508, 16, 8)
    assert list(short) == [
        "cp is 4 and a sequence has 508 tokens; 2 · cp = 8 (each rank has two pieces) must divide it."
    ]
    uneven = LayoutSpec(cp=2, tp=4).problems(MODEL, 1024, 500, 16, 8)
    assert "tp must divide the 250 of a rank" in " ".join(uneven)
    assert not list(LayoutSpec(cp=2, tp=4, sequence_parallel=False).problems(MODEL, 1024, 500, 16, 8))


@pytest.mark.parametrize(
    ("layout", "model", "sentence"),
    [
        (
            LayoutSpec(cp=2),
            VisionSpec(objective=VisionObjective.MASKED),
            "cp is 2; the model has more than one way through its blocks, so it must be 1.",
        ),
        (
            LayoutSpec(cp=4, tp=2, context=ContextParallelism.ULYSSES),
            VisionSpec(),
            "cp is 4, tp 2, context 'ulysses' and heads 4; tp · cp = 8 must divide it.",
        ),
        (LayoutSpec(tp=8), VisionSpec(), "tp is 8 and heads 4; tp must divide it."),
        (
            LayoutSpec(tp=4),
            VisionSpec(objective=VisionObjective.MASKED, decoder_heads=2),
            "tp is 4 and decoder's heads 2; tp must divide it.",
        ),
        (
            LayoutSpec(tp=4),
            ModerationSpec(text=TextTowerSpec(heads=2), image=ImageTowerSpec(ffn_width=130)),
            "tp is 4 and text.heads 2; tp must divide it. tp is 4 and image.ffn_width 130; tp must "
            "divide it.",
        ),
        (
            LayoutSpec(ep=2, pp=2, micro_batches=2),
            SpeechSpec(),
            "ep is 2 and the model has no experts; ep must be 1.",
        ),
        (
            LayoutSpec(pp=2, micro_batches=2),
            VisionSpec(objective=VisionObjective.MASKED),
            "pp is 2; the model has more than one way through its blocks, so it must be 1.",
        ),
    ],
)
def test_encoders_have_fewer_axes_and_every_stack_is_looked_at(
    layout: LayoutSpec, model: object, sentence: str
) -> None:
    assert sentence in " ".join(layout.problems(model, None, None, 16, 8))
    found = nearest(layout, model, None, None, 16, 8)
    assert found is not None
    assert list(found.problems(model, None, None, 16, 8)) == []


def test_positions_of_pictures_and_clips_need_not_divide() -> None:
    for model in (VisionSpec(), SpeechSpec()):
        assert list(LayoutSpec(cp=8).problems(model, None, None, 16, 8)) == []


def test_a_pipeline_refuses_tied_embeddings() -> None:
    layout = LayoutSpec(pp=2, micro_batches=2)
    assert "tied_embeddings must be false" in problems(layout, tied_embeddings=True)
    assert problems(layout) == ""


def test_what_is_left_goes_to_dp_shard() -> None:
    assert LayoutSpec(tp=2, cp=2).resolved(16).dp_shard == 4
    with pytest.raises(InvalidLayout, match="must divide it"):
        LayoutSpec(tp=3).resolved(16)


@pytest.mark.parametrize("ranks", [1, 2, 6, 8, 12, 64])
def test_the_nearest_layout_is_legal_and_a_legal_one_is_its_own(ranks: int) -> None:
    batch = 2 * ranks
    for degrees in product((1, 2, 3), (1, 2, 4), (1, 5, 8), (1, 4)):
        asked = LayoutSpec(**dict(zip(("pp", "cp", "tp", "ep"), degrees, strict=True)))
        found = nearest(asked, MODEL, 1024, 512, batch, ranks)
        assert found is not None
        assert list(found.problems(MODEL, 1024, 512, batch, ranks)) == []
        assert nearest(found, MODEL, 1024, 512, batch, ranks) == found


def test_the_nearest_layout_changes_no_more_than_it_must() -> None:
    found = nearest(LayoutSpec(tp=8, cp=2), MODEL, 1024, 512, 16, 16)
    assert found is not None
    assert (found.tp, found.cp, found.dp_shard, found.pp) == (4, 2, 2, 1)
    piped = nearest(LayoutSpec(pp=2), MODEL, 1024, 512, 16, 4)
    assert piped is not None
    assert (piped.pp, piped.micro_batches, piped.dp_shard) == (2, 2, 2)


@pytest.mark.parametrize(
    "asked",
    [
        LayoutSpec(tp=2, compile=CompileUnit.WHOLE, recompute=Recompute.BUDGET),
        LayoutSpec(recompute=Recompute.BUDGET),
        LayoutSpec(pp=2, compile=CompileUnit.WHOLE, recompute=Recompute.SELECTIVE, schedule=Schedule.ZBV),
    ],
)
def test_recompute_and_compile_give_way_too(asked: LayoutSpec) -> None:
    found = nearest(asked, MODEL, 1024, 512, 16, 8)
    assert found is not None
    assert list(found.problems(MODEL, 1024, 512, 16, 8)) == []
    assert (found.tp, found.pp) == (asked.tp, asked.pp)


def test_no_layout_at_all_is_said_to_be_none() -> None:
    # Seven ranks of which none may share rows: no axis takes them.
    assert nearest(LayoutSpec(), MODEL, 1024, 512, 16, 7) is None
    with pytest.raises(InvalidLayout) as refused:
        LayoutSpec().validate(MODEL, 1024, 512, 16, 7)
    assert refused.value.hint.startswith("No layout fits these values")


def test_a_run_file_with_an_illegal_layout_names_rule_values_and_the_nearest() -> None:
    table = {
        "dataset": "d",
        "model": {"layers": 4, "heads": 8, "kv_heads": 4, "width": 64},
        "layout": {"tp": 8},
        "launch": {"ranks": 8},
    }
    with pytest.raises(ConfigError) as refused:
        load(RunSpec, [Layer("run.toml", table)])
    assert "tp is 8 and kv_heads 4; tp must divide it." in str(refused.value)
    assert "The nearest layout that fits: layout.dp_shard=2 layout.tp=4." in str(refused.value)


def test_an_unknown_schedule_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="zero_bubble"):
        load(RunSpec, [Layer("run.toml", {"dataset": "d", "layout": {"schedule": "zerobubble"}})])
