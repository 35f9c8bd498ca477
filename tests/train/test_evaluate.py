"""Bits per byte do not depend on how the samples are shared out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as functional
from torch.distributed.device_mesh import init_device_mesh

from stoker.core.clock import ManualClock
from stoker.core.events import Section
from stoker.spec.model import ModelSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.evaluate import Evaluation, evaluate_model
from stoker.train.generate import generate
from stoker.train.models import build_model, materialise
from stoker.train.parallelize import parallelize
from stoker.train.token_bytes import TokenBytes
from support.ranks import run_ranks
from support.token_splits import TokenSplit

VOCABULARY = 20
MODEL = ModelSpec(layers=1, width=8, heads=2, kv_heads=1, ffn_width=12)
TABLE = TokenBytes((b"", *(b"x" * (1 + token % 4) for token in range(1, VOCABULARY))))
# 13 samples in chunks of 4: the ranks get unequal numbers of samples, and of forward passes.
SPLIT = TokenSplit.pack([(7 * place * place + place) % VOCABULARY for place in range(105)], 8)


def sharded() -> torch.nn.Module:
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),), mesh_dim_names=("dp_shard",))
    spec = RunSpec(dataset="none", model=MODEL, train=TrainSpec(precision=Precision.FP32))
    spread = parallelize(build_model(MODEL, VOCABULARY), mesh, spec)
    return materialise(spread, 3, torch.device("cpu"))


def evaluated(rank: int) -> tuple[Evaluation, int]:
    sections: list[Section] = []
    found = evaluate_model(sharded(), SPLIT, TABLE, rows=3, clock=ManualClock(), section=sections.append)
    return found, len(sections)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_bits_per_byte_count_every_sample_once_for_every_world_size(world_size: int) -> None:
    def directly(rank: int) -> float:
        model = materialise(build_model(MODEL, VOCABULARY), 3, torch.device("cpu"))
        rows = torch.from_numpy(SPLIT.rows.astype("int64"))
        with torch.no_grad():
            logits = model(rows[:, :-1]).flatten(0, 1)
            return float(functional.cross_entropy(logits, rows[:, 1:].flatten(), reduction="sum"))

    nats = run_ranks(1, directly)[0]
    by_rank = run_ranks(world_size, evaluated)
    for found, passes in by_rank:
        assert found == by_rank[0][0]
        assert passes == by_rank[0][1]
        assert found.name == "model"
        assert (found.bytes, found.tokens) == (TABLE.count(SPLIT.rows[:, 1:]), 13 * 8)
        assert found.bits_per_byte == pytest.approx(nats / math.log(2) / found.bytes, rel=1e-5)


def test_every_rank_writes_the_same_sample_and_begins_with_the_prompt() -> None:
    def write(rank: int) -> list[int]:
        return generate(sharded(), [3, 4], tokens=12, context_tokens=8, seed=1)

    by_rank = run_ranks(2, write)
    assert by_rank[0] == by_rank[1]
    assert by_rank[0][:2] == [3, 4]
    assert 2 <= len(by_rank[0]) <= 14
    assert by_rank[0] == run_ranks(1, write)[0]
