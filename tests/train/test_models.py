"""The decoder is what its specification says, wherever and however it is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from stoker.spec.model import InvalidModel, ModelSpec
from stoker.spec.rope import RopeScaling, RopeScalingSpec
from stoker.spec.run import RunSpec
from stoker.train.models import build_model, materialise
from stoker.train.models.decoder import attend
from stoker.train.models.norm import RMSNorm, rotate, rotation
from stoker.train.parallelize import parallelize
from support.ranks import run_ranks

SPEC = ModelSpec(layers=2, width=24, heads=6, kv_heads=2, ffn_width=40)
CPU = torch.device("cpu")


def test_building_takes_no_memory() -> None:
    model = build_model(replace(SPEC, layers=3, width=8192, heads=64, kv_heads=8, ffn_width=28672), 128_256)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_tied_head_is_one_parameter_and_an_untied_one_is_another() -> None:
    tied = dict(build_model(SPEC, 50).named_parameters())
    untied = dict(build_model(replace(SPEC, tied_embeddings=False), 50).named_parameters())
    assert set(untied) - set(tied) == {"head.weight"}
    assert untied["head.weight"].shape == (50, 24)


def test_without_qk_norm_there_are_no_such_weights() -> None:
    with_norms = dict(build_model(SPEC, 50).named_parameters())
    without = dict(build_model(replace(SPEC, qk_norm=False), 50).named_parameters())
    assert {name.rsplit(".", 2)[1] for name in set(with_norms) - set(without)} == {"query_norm", "key_norm"}


def test_sizes_that_do_not_fit_are_refused_before_anything_is_built() -> None:
    with pytest.raises(InvalidModel, match="width 25 is not divisible by heads 6"):
        build_model(replace(SPEC, width=25), 50)


@pytest.mark.parametrize("tied", [True, False])
def test_a_built_model_has_the_parameters_that_the_formula_counts(tied: bool) -> None:
    spec = replace(SPEC, tied_embeddings=tied, qk_norm=tied)
    built = sum(parameter.numel() for parameter in build_model(spec, 50).parameters())
    assert built == spec.parameters(50)


@pytest.mark.parametrize("world_size", [2, 3])
def test_first_weights_are_the_same_whatever_the_sharding(world_size: int) -> None:
    def weights(rank: int, sharded: bool) -> dict[str, torch.Tensor]:
        model = build_model(SPEC, 50)
        if sharded:
            mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("dp_shard",))
            parallelize(model, mesh, RunSpec(dataset="none", model=SPEC))
        materialise(model, 9, CPU)
        return {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
            for name, value in model.named_parameters()
        }

    plain = run_ranks(1, lambda rank: weights(rank, False))[0]
    for found in run_ranks(world_size, lambda rank: weights(rank, True)):
        assert set(found) == set(plain)
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_another_seed_gives_other_weights_and_no_two_matrices_are_alike() -> None:
    first = dict(materialise(build_model(SPEC, 50), 1, CPU).named_parameters())
    second = dict(materialise(build_model(SPEC, 50), 2, CPU).named_parameters())
    gate, up = "blocks.0.feed_forward.gate.weight", "blocks.0.feed_forward.up.weight"
    assert not torch.equal(first[gate], second[gate])
    assert not torch.equal(first[gate], first[up])
    assert not torch.equal(first[gate], first[gate.replace("0", "1")])


def test_a_position_sees_nothing_after_it() -> None:
    with torch.no_grad():
        model = materialise(build_model(SPEC, 50), 1, CPU)
        tokens = torch.arange(12).view(1, 12)
        changed = tokens.clone()
        changed[0, 8] = 40
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 8:] - after[:, 8:]).abs().amax(dim=-1).min() > 0


def test_rotated_products_depend_on_the_distance_alone() -> None:
    cosine, sine = rotation(20, 8, 10_000.0, CPU)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))

    def product(query_place: int, key_place: int) -> float:
        turned = [
            rotate(vector.view(1, 1, 1, 8), cosine[place : place + 1], sine[place : place + 1]).flatten()
            for vector, place in ((query, query_place), (key, key_place))
        ]
        return float(turned[0] @ turned[1])

    assert product(5, 2) == pytest.approx(product(17, 14), abs=1e-4)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-4)


def test_both_ways_of_attending_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 33, 6, 8, generator=generator)
    key, value = torch.randn(2, 2, 33, 2, 8, generator=generator)
    with torch.no_grad():
        fused = attend(query, key, value)
        products = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert fused.shape == products.shape == (2, 33, 6, 8)
    torch.testing.assert_close(products.float(), fused, rtol=0.05, atol=0.03)


def test_the_norm_and_its_derivatives_are_those_of_torch() -> None:
    def both(rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        hidden = torch.randn(3, 5, 16, generator=generator)
        received = torch.randn(3, 5, 16, generator=generator)
        gains = torch.rand(16, generator=generator)
        found = []
        for norm in (RMSNorm(16, 1e-3), torch.nn.RMSNorm(16, eps=1e-3)):
            with torch.no_grad():
                norm.weight.copy_(gains)
            leaf = hidden.clone().requires_grad_()
            result = norm(leaf)
            result.backward(received)
            found.append((result.detach(), leaf.grad, norm.weight.grad))
        return list(zip(*found, strict=True))

    for ours, torchs in run_ranks(1, both)[0]:
        torch.testing.assert_close(ours, torchs)


def test_turning_is_multiplication_by_a_complex_number_and_so_is_its_derivative() -> None:
    def both(rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        heads, received = torch.randn(2, 2, 7, 3, 8, generator=generator)
        cosine, sine = rotation(7, 8, 10_000.0, CPU)
        found = []
        for ours in (True, False):
            leaf = heads.clone().requires_grad_()
            if ours:
                turned = rotate(leaf, cosine, sine)
            else:
                first, second = leaf.chunk(2, dim=-1)
                turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
            turned.backward(received)
            found.append((turned.detach(), leaf.grad))
        return list(zip(*found, strict=True))

    for ours, plain in run_ranks(1, both)[0]:
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(
    ("scaling", "theirs"),
    [
        (
            RopeScalingSpec(kind=RopeScaling.LINEAR, factor=4.0),
            {"rope_type": "linear", "factor": 4.0},
        ),
        (
            RopeScalingSpec(kind=RopeScaling.LLAMA3, factor=32.0, original_tokens=512),
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "original_max_position_embeddings": 512,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        ),
        (
            RopeScalingSpec(kind=RopeScaling.YARN, factor=8.0, original_tokens=512),
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512},
        ),
        (
            RopeScalingSpec(
                kind=RopeScaling.YARN,
                factor=8.0,
                original_tokens=2048,
                beta_fast=24.0,
                beta_slow=2.0,
                attention_factor=1.5,
            ),
            {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 2048,
                "beta_fast": 24.0,
                "beta_slow": 2.0,
                "attention_factor": 1.5,
            },
        ),
    ],
    ids=["linear", "llama3", "yarn", "yarn with all said"],
)
def test_stretched_positions_are_those_of_transformers(
    scaling: RopeScalingSpec, theirs: dict[str, Any]
) -> None:
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_theta": 50_000.0, **theirs},
    )
    peer = LlamaRotaryEmbedding(config)
    cosine, sine = rotation(40, 64, 50_000.0, CPU, scaling=scaling)
    their_cosine, their_sine = peer(torch.zeros(1, 40, 128), torch.arange(40).unsqueeze(0))
    torch.testing.assert_close(cosine[:, 0], their_cosine[0, :, :32])
    torch.testing.assert_close(sine[:, 0], their_sine[0, :, :32])


def test_a_rank_with_a_part_of_the_sequence_turns_by_the_places_in_the_whole() -> None:
    places = torch.tensor([3, 4, 17])
    whole, part = rotation(20, 8, 10_000.0, CPU), rotation(3, 8, 10_000.0, CPU, positions=places)
    for all_of_them, some in zip(whole, part, strict=True):
        assert torch.equal(all_of_them[places], some)


def test_biases_begin_at_zero_and_a_head_may_be_wider_than_its_share() -> None:
    spec = replace(SPEC, qkv_bias=True, head_width=10)
    model = build_model(spec, 50)
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters(50)
    weights = dict(materialise(model, 1, CPU).named_parameters())
    assert weights["blocks.0.attention.query.weight"].shape == (60, 24)
    assert weights["blocks.1.attention.key.bias"].tolist() == [0.0] * 20
    with torch.no_grad():
        assert model(torch.arange(9).view(1, 9)).shape == (1, 9, 50)


def test_a_stage_of_a_pipeline_takes_a_stream_and_gives_one() -> None:
    with torch.no_grad():
        model = materialise(build_model(replace(SPEC, tied_embeddings=False), 50), 1, CPU)
        tokens = torch.arange(12).view(1, 12)
        expected = model(tokens)
        blocks = list(model.blocks)
        embedding, norm, head = model.embedding, model.norm, model.head
        model.blocks = torch.nn.ModuleList(blocks[:1])
        model.norm = model.head = None
        stream = model(tokens)
        model.blocks = torch.nn.ModuleList(blocks[1:])
        model.embedding, model.norm, model.head = None, norm, head
        assert embedding is not None
        torch.testing.assert_close(model(stream), expected)
