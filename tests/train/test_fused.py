"""The fused decoder computes what the plain one does: every kernel in Triton's interpreter, without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.spec.kernels import fits
from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec

PROGRAM = Path(__file__).parents[1] / "support" / "fused_in_interpreter.py"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("choice", ["keep", "remake"])
def test_loss_gradients_and_update_are_the_plain_decoders(found: dict[str, Any], choice: str) -> None:
    told = found[choice]
    assert told["loss"][0] == pytest.approx(told["loss"][1], rel=1e-6)
    assert told["norm"][0] == pytest.approx(told["norm"][1], rel=1e-5)
    assert len(told["gradients"]) == 3 + 6 * 2
    assert max(told["gradients"].values()) < 1e-5, told["gradients"]
    assert max(told["updated"].values()) < 1e-5, told["updated"]


@pytest.mark.parametrize("layout", ["shards", "stages"])
def test_the_engine_computes_the_same_by_fused_kernels_on_two_ranks(
    found: dict[str, Any], layout: str
) -> None:
    told = found["engine"][layout]
    for name in ("losses", "norms"):
        one, two, *plain = told[name]
        assert one == pytest.approx(plain[0], rel=1e-5)
        assert two == pytest.approx(plain[1], rel=1e-5)
    assert len(told["gradients"]) >= 9 * 2
    assert max(told["gradients"].values()) < 1e-5, told["gradients"]


def test_cross_entropy_holds_for_large_logits_and_rows_wider_than_a_block(found: dict[str, Any]) -> None:
    assert found["entropy"]["losses"] < 1e-5
    assert found["entropy"]["gradient"] < 1e-5


def test_the_fused_head_tells_each_rows_loss(found: dict[str, Any]) -> None:
    assert found["by row"]["apart"] < 1e-6
    assert found["by row"]["rows"] == 3


def test_float8_is_what_it_was_made_from_by_rows_and_turned(found: dict[str, Any]) -> None:
    told = found["casting"]
    assert told["amax"][0] == told["amax"][1]
    assert told["turned"]
    assert told["same"]


def test_only_shapes_that_are_written_out_are_taken() -> None:
    plain = ModelSpec(tied_embeddings=False, qk_norm=False)
    assert fits(plain)
    for other in (
        ModelSpec(qk_norm=False),
        ModelSpec(tied_embeddings=False),
        ModelSpec(tied_embeddings=False, qk_norm=False, qkv_bias=True),
        ModelSpec(tied_embeddings=False, qk_norm=False, head_width=128),
        ModelSpec(tied_embeddings=False, qk_norm=False, moe=MoeSpec(experts=4)),
    ):
        assert not fits(other)
