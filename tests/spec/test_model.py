"""The model's formulas against published models and against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.spec.model import AttentionCount, InvalidModel, ModelSpec
from stoker.spec.moe import MoeSpec
from stoker.spec.rope import RopeScalingSpec


def _llama(
    layers: int, width: int, heads: int, kv_heads: int, ffn_width: int, tied: bool = False
) -> ModelSpec:
    return ModelSpec(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ffn_width=ffn_width,
        tied_embeddings=tied,
        qk_norm=False,
    )


# Shapes and counts as published with the models (config.json and the total of the weight files' index).
PUBLISHED = {
    "TinyLlama 1.1B": (_llama(22, 2048, 32, 4, 5632), 32_000, 1_100_048_384),
    "Llama 2 7B": (_llama(32, 4096, 32, 32, 11008), 32_000, 6_738_415_616),
    "Llama 2 13B": (_llama(40, 5120, 40, 40, 13824), 32_000, 13_015_864_320),
    "Llama 2 70B": (_llama(80, 8192, 64, 8, 28672), 32_000, 68_976_648_192),
    "Llama 3.1 8B": (_llama(32, 4096, 32, 8, 14336), 128_256, 8_030_261_248),
    "Llama 3.1 70B": (_llama(80, 8192, 64, 8, 28672), 128_256, 70_553_706_496),
    "Llama 3.1 405B": (_llama(126, 16384, 128, 8, 53248), 128_256, 405_853_388_800),
    "Llama 3.2 1B": (_llama(16, 2048, 32, 8, 8192, tied=True), 128_256, 1_235_814_400),
    "Llama 3.2 3B": (_llama(28, 3072, 24, 8, 8192, tied=True), 128_256, 3_212_749_824),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_count(name: str) -> None:
    spec, vocabulary, published = PUBLISHED[name]
    assert not list(spec.problems())
    assert spec.parameters(vocabulary) == pytest.approx(published, rel=1e-3)


def test_parameters_counted_one_by_one() -> None:
    spec = ModelSpec(layers=2, width=8, heads=4, kv_heads=2, ffn_width=12)
    layer = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 12 + 8 + 8 + 2 + 2
    assert spec.parameters(10) == 2 * layer + 8 + 10 * 8
    assert replace(spec, qk_norm=False).parameters(10) == spec.parameters(10) - 2 * (2 + 2)
    assert replace(spec, tied_embeddings=False).parameters(10) == spec.parameters(10) + 10 * 8


def test_flops_counted_one_by_one() -> None:
    spec = ModelSpec(layers=2, width=8, heads=4, kv_heads=2, ffn_width=12)
    length, vocabulary = 6, 10
    products = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 12
    heads_times_scores_and_sums = 4 * (2 * 2 + 2 * 2)
    whole = sum(
        2 * 2 * products + 2 * heads_times_scores_and_sums * length + 2 * 8 * vocabulary
        for _ in range(length)
    )
    causal = sum(
        2 * 2 * products + 2 * heads_times_scores_and_sums * (seen + 1) + 2 * 8 * vocabulary
        for seen in range(length)
    )
    assert spec.forward_flops_per_token(vocabulary, length) * length == whole
    assert spec.forward_flops_per_token(vocabulary, length, AttentionCount.CAUSAL) * length == causal


def test_training_flops_of_a_large_model_are_near_six_times_its_parameters() -> None:
    spec, vocabulary, published = PUBLISHED["Llama 3.1 405B"]
    assert spec.training_flops_per_token(
        vocabulary, 8192, AttentionCount.CAUSAL
    ) / published == pytest.approx(6, rel=0.05)


def test_training_flops_agree_with_the_palm_formula() -> None:
    spec, vocabulary, _ = PUBLISHED["Llama 2 7B"]
    lookup_and_norms = 32_000 * 4096 + (2 * 32 + 1) * 4096
    palm = 6 * (spec.parameters(vocabulary) - lookup_and_norms) + 12 * 32 * 32 * 128 * 4096
    assert spec.training_flops_per_token(vocabulary, 4096) == palm


def test_every_problem_is_named_at_once() -> None:
    spec = ModelSpec(layers=0, width=100, heads=6, kv_heads=4, ffn_width=-1, rope_base=0.0)
    with pytest.raises(InvalidModel) as caught:
        spec.validate()
    for part in (
        "layers is 0",
        "ffn_width is -1",
        "rope_base is 0.0",
        "width 100 is not divisible by heads 6",
        "heads 6 is not divisible by kv_heads 4",
    ):
        assert part in caught.value.message
    assert "[model]" in caught.value.hint


def test_an_odd_head_width_is_refused_since_rope_turns_pairs() -> None:
    with pytest.raises(InvalidModel, match="head width of 3"):
        ModelSpec(width=12, heads=4, kv_heads=2).validate()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    assert [problem for problem in ModelSpec(norm_epsilon=value).problems() if "norm_epsilon" in problem]


@given(st.integers(-3, 64), st.integers(-3, 16), st.integers(-3, 16))
def test_a_shape_without_problems_can_be_counted(width: int, heads: int, kv_heads: int) -> None:
    spec = ModelSpec(width=width, heads=heads, kv_heads=kv_heads)
    if list(spec.problems()):
        with pytest.raises(InvalidModel):
            spec.validate()
    else:
        assert spec.heads * spec.head_elements == spec.width
        assert spec.parameters(16) > 0
        assert spec.training_flops_per_token(16, 8) > 0


def test_a_checkpoint_from_before_a_setting_existed_is_of_the_same_shape() -> None:
    assert ModelSpec().shape() == {
        "layers": 4,
        "width": 128,
        "heads": 2,
        "kv_heads": 1,
        "ffn_width": 384,
        "rope_base": 10_000.0,
        "norm_epsilon": 1e-6,
        "tied_embeddings": True,
        "qk_norm": True,
    }
    assert ModelSpec(head_width=32, moe=MoeSpec(experts=4)).shape()["head_width"] == 32
    assert ModelSpec(moe=MoeSpec()).shape() != ModelSpec(moe=MoeSpec(top_k=1)).shape()


# Shapes as published; counts from the models' cards and weight files.
WITH_EXPERTS = {
    "Mixtral 8x7B": (_llama(32, 4096, 32, 8, 14336), MoeSpec(), 32_000, 46_702_792_704, 12_879_925_248),
    "Qwen3 30B-A3B": (
        replace(_llama(48, 2048, 32, 4, 6144), head_width=128, qk_norm=True),
        MoeSpec(experts=128, top_k=8, expert_width=768),
        151_936,
        30_532_122_624,
        3_353_000_000,
    ),
}


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_parameters_with_experts_equal_the_published_counts(name: str) -> None:
    dense, moe, vocabulary, published, active = WITH_EXPERTS[name]
    spec = replace(dense, moe=moe)
    assert not list(spec.problems())
    assert spec.parameters(vocabulary) == pytest.approx(published, rel=1e-5)
    assert spec.active_parameters(vocabulary) == pytest.approx(active, rel=1e-3)


def test_flops_with_experts_are_those_of_the_experts_that_a_token_meets() -> None:
    moe = MoeSpec(experts=16, top_k=2, expert_width=4, shared_experts=1, dense_layers=1)
    spec = ModelSpec(layers=3, width=8, heads=4, kv_heads=2, ffn_width=12, head_width=6, moe=moe)
    attention = 8 * 24 + 8 * 12 + 8 * 12 + 24 * 8
    products = 3 * attention + 3 * 8 * 12 + 2 * (8 * 16 + 3 * 8 * 4 * (2 + 1))
    scores_and_sums = 3 * 4 * (6 + 6) * 5
    assert spec.forward_flops_per_token(10, 5) == 2 * products + 2 * scores_and_sums + 2 * 8 * 10


def test_biases_are_parameters_and_no_flops() -> None:
    spec = ModelSpec(layers=2, width=8, heads=4, kv_heads=2, ffn_width=12)
    biased = replace(spec, qkv_bias=True)
    assert biased.parameters(10) == spec.parameters(10) + 2 * (8 + 4 + 4)
    assert biased.forward_flops_per_token(10, 5) == spec.forward_flops_per_token(10, 5)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ModelSpec(head_width=7), "head_width is 7; it must be divisible by 2"),
        (ModelSpec(head_width=-2), "head_width is -2"),
        (ModelSpec(rope_scaling=RopeScalingSpec(factor=0.5)), "rope_scaling.factor is 0.5"),
        (
            ModelSpec(rope_scaling=RopeScalingSpec(low_frequency_factor=4.0)),
            "rope_scaling.low_frequency_factor is 4.0 and high_frequency_factor 4.0",
        ),
    ],
)
def test_details_that_cannot_be_are_named(spec: ModelSpec, expected: str) -> None:
    with pytest.raises(InvalidModel, match=expected):
        spec.validate()


def test_a_given_head_width_needs_no_division() -> None:
    spec = ModelSpec(width=10, heads=4, kv_heads=2, head_width=16)
    assert not list(spec.problems())
    assert (spec.query_width, spec.kv_width) == (64, 32)
