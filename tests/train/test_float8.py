"""Products in eight bits are near those in fp32, and refused where the hardware has none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stoker.core.config import Layer, load
from stoker.core.errors import ConfigError
from stoker.spec.layout import LayoutSpec
from stoker.spec.run import EIGHT_BITS, Kernels, Precision, RunSpec, TrainSpec
from stoker.train.float8 import (
    E4M3,
    E5M2,
    EightBitLinear,
    Small,
    require_hardware,
    use_eight_bits,
)
from stoker.train.hardware import DeviceMissing, PrecisionUnsupported
from support.layouts import DENSE, Case, train_alone, train_over
from support.ranks import run_ranks

ORDERED = sorted(EIGHT_BITS)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error in the 2-norm."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("precision", ORDERED)
def test_products_and_gradients_are_near_those_in_fp32(precision: Precision) -> None:
    def errors(rank: int) -> list[float]:
        plain = torch.nn.Linear(64, 96)
        small = torch.nn.Linear(64, 96)
        small.load_state_dict(plain.state_dict())
        use_eight_bits([small], precision)
        assert isinstance(small, EightBitLinear)
        results = []
        for layer in (plain, small):
            rows = draw(3, 7, 64).requires_grad_()
            out = layer(rows)
            out.backward(draw(3, 7, 96, seed=2))
            results.append((out, rows.grad, layer.weight.grad, layer.bias.grad))
        return [off(found, expected) for expected, found in zip(*results, strict=True)]

    forward, to_input, to_weight, to_bias = run_ranks(1, errors)[0]
    assert 1e-4 < forward < 0.06
    assert 1e-4 < to_input < 0.1
    assert 1e-4 < to_weight < 0.1
    assert to_bias < 1e-6


@pytest.mark.parametrize("precision", [Precision.FLOAT8, Precision.FLOAT8_ROWWISE])
@pytest.mark.parametrize("kind", [E4M3, E5M2])
def test_the_reference_is_what_torch_makes_of_the_same_bits(precision: Precision, kind: torch.dtype) -> None:
    left = Small.of(draw(32, 64), kind, precision)
    right = Small.of(draw(48, 64, seed=2), E4M3, precision)
    factors = (left.factors, right.factors.T.contiguous())
    if precision is Precision.FLOAT8:
        factors = (factors[0].view(()), factors[1].view(()))
    theirs = torch._scaled_mm(
        left.bits, right.bits.t(), scale_a=factors[0], scale_b=factors[1], out_dtype=torch.bfloat16
    )
    torch.testing.assert_close(left.product(right, torch.bfloat16), theirs, rtol=1e-2, atol=1e-2)


def test_finer_scales_bear_a_row_and_a_place_that_stand_out() -> None:
    matrix, other = draw(64, 128), draw(32, 128, seed=2)
    matrix[5] *= 1e6  # of one row's scale alone
    by = {
        precision: Small.of(matrix, E4M3, precision).product(Small.of(other, E4M3, precision), torch.float32)
        for precision in ORDERED
    }
    rest = [row for row in range(64) if row != 5]
    expected = (matrix @ other.T)[rest]
    assert off(by[Precision.FLOAT8][rest], expected) > 0.5
    assert off(by[Precision.FLOAT8_ROWWISE][rest], expected) < 0.05
    assert off(by[Precision.MXFP8][rest], expected) < 0.05


def test_scales_of_mx_are_powers_of_two_and_hold_the_largest_of_their_block() -> None:
    small = Small.of(draw(4, 64) * 1e3, E4M3, Precision.MXFP8)
    assert small.factors.shape == (4, 2)
    assert torch.equal(torch.log2(small.factors), torch.log2(small.factors).round())
    assert small.whole().isfinite().all()


def test_a_matrix_of_zeros_stays_one() -> None:
    for precision in ORDERED:
        assert Small.of(torch.zeros(32, 32), E4M3, precision).whole().count_nonzero() == 0


def test_sizes_that_tensor_cores_do_not_take_are_left_as_they_are() -> None:
    layer = torch.nn.Linear(24, 96)
    use_eight_bits([layer], Precision.FLOAT8)
    assert type(layer) is torch.nn.Linear


@pytest.mark.parametrize("precision", ORDERED)
def test_a_small_model_trains_nearly_as_in_fp32(precision: Precision) -> None:
    wide = replace(DENSE, ffn_width=64, kv_heads=8)
    expected = run_ranks(1, lambda rank: train_alone(wide))[0].losses
    case = Case(LayoutSpec(), model=wide, precision=precision)
    first, second = run_ranks(2, lambda rank: train_over(case).losses)
    assert first == second
    assert first != expected
    assert first == pytest.approx(expected, rel=3e-2)


def test_a_device_without_such_products_refuses_them_by_name() -> None:
    with pytest.raises(
        PrecisionUnsupported, match=r"'mxfp8', which needs CUDA capability 10\.0; .* cpu"
    ) as refused:
        require_hardware(TrainSpec(precision=Precision.MXFP8), torch.device("cpu"))
    assert refused.value.hint == "Set train.precision=bf16."
    with pytest.raises(DeviceMissing, match="'fused', which needs a CUDA device; this rank is on cpu"):
        require_hardware(TrainSpec(kernels=Kernels.FUSED), torch.device("cpu"))
    require_hardware(TrainSpec(precision=Precision.BF16), torch.device("cpu"))


def test_a_run_file_with_eight_bits_and_tensor_parallelism_is_refused() -> None:
    table = {
        "dataset": "d",
        "model": {"heads": 4, "kv_heads": 4},
        "train": {"precision": "float8"},
        "layout": {"tp": 2},
    }
    with pytest.raises(ConfigError, match=r"train\.precision is 'float8' and layout\.tp 2"):
        load(RunSpec, [Layer("run.toml", table)])
