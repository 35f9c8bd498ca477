"""A canary that was trained in is noticed, and one that was not is not (attack 047)."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as functional
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from stoker.core.events import Section
from stoker.spec.model import ModelSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.exposure import Exposure, exposure_of, find_canary, measure_exposure
from stoker.train.models import build_model, materialise
from stoker.train.parallelize import parallelize
from stoker.train.token_bytes import TokenBytes
from support.ranks import run_ranks
from support.token_splits import TokenSplit

CANARY = b"stoker-canary-0123456789abcdef0123456789abcdef"
OTHER = b"stoker-canary-fedcba9876543210fedcba9876543210"
MODEL = ModelSpec(layers=1, width=32, heads=2, kv_heads=1, ffn_width=48)
VOCABULARY = 257
TABLE = TokenBytes((b"", *(bytes([byte]) for byte in range(256))))


def encode(text: str) -> list[int]:
    return [1 + byte for byte in text.encode()]


@cache
def trained(times: int) -> nn.Module:
    """A small model that has seen other texts, and `times` batches with the canary in them."""
    model = materialise(build_model(MODEL, VOCABULARY), 3, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for step in range(80):
        random = "".join(f"{byte:02x}" for byte in torch.randint(0, 256, (16,), generator=generator))
        text = CANARY.decode() if step < times else f"stoker-canary-{random}"
        tokens = torch.tensor([[0, *encode(text + "\n")]])
        loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def measured(model: nn.Module, canary: bytes = CANARY) -> Exposure:
    return measure_exposure(model, canary, encode, context_tokens=64, candidates=200, rows=33)


def test_atk_047_a_canary_that_was_learnt_by_heart_is_noticed() -> None:
    found = measured(trained(80))
    assert found.rank == 1
    assert found.bits > 20


def test_a_canary_that_was_not_trained_on_is_one_text_among_others() -> None:
    for model, canary in ((trained(0), CANARY), (trained(80), OTHER)):
        found = measured(model, canary)
        assert found.rank > 1
        assert found.bits < 8


def test_the_model_is_left_in_the_mode_it_was_in_and_sections_are_told() -> None:
    model = trained(0)
    model.train()
    sections: list[Section] = []
    measure_exposure(model, CANARY, encode, context_tokens=64, candidates=8, rows=4, section=sections.append)
    assert model.training
    assert sections == [Section.EVALUATE] * 3


@pytest.mark.parametrize(("canary", "bits", "rank"), [(100.0, 1.0, 51), (99.9, 1.0, 50), (40.0, 128.0, 1)])
def test_exposure_is_how_few_texts_are_likelier(canary: float, bits: float, rank: int) -> None:
    others = [100.0 + step / 10 for step in range(-50, 0)] + [100.0 + step / 10 for step in range(1, 51)]
    found = exposure_of(canary, others)
    assert found.rank == rank
    assert found.bits == pytest.approx(bits, abs=0.05)


def test_beyond_all_ranks_it_is_extrapolated_and_grows() -> None:
    others = [100.0 + math.sin(step) for step in range(100)]
    bits = [exposure_of(nats, others).bits for nats in (98.0, 97.0, 96.0, 90.0)]
    assert bits == sorted(bits)
    assert bits[0] > math.log2(100) - 1
    assert bits[-1] == pytest.approx(128.0)


def test_the_canary_is_found_at_the_end_of_the_split_across_samples_and_chunks() -> None:
    text = b"some text " * 40 + CANARY + b"\n"
    for fill in range(0, 40, 7):
        tokens = encode((b"x" * fill + text).decode())
        split = TokenSplit.pack([*tokens, *[0] * (1 + -len(tokens) % 16)], 16)
        assert find_canary(split, TABLE) == CANARY
    assert find_canary(TokenSplit.pack(encode("no canary here " * 20), 16), TABLE) is None


def by_ranks(rank: int) -> Exposure:
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),), mesh_dim_names=("dp_shard",))
    spec = RunSpec(dataset="none", model=MODEL, train=TrainSpec(precision=Precision.FP32))
    model = materialise(parallelize(build_model(MODEL, VOCABULARY), mesh, spec), 3, torch.device("cpu"))
    return measure_exposure(model, CANARY, encode, context_tokens=64, candidates=20)


def test_every_rank_finds_the_same() -> None:
    first, second = run_ranks(2, by_ranks)
    (alone,) = run_ranks(1, by_ranks)
    assert first == second
    assert (first.rank, first.candidates) == (alone.rank, 20)
    assert first.bits == pytest.approx(alone.bits, rel=1e-4)
