"""Which device a run file comes to on which machine, and what is said where it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.core.errors import StokerError
from stoker.spec.run import Device, Kernels, LaunchSpec, Precision, RunSpec, TrainSpec
from stoker.train.hardware import (
    Accelerator,
    Accelerators,
    DeviceMissing,
    PrecisionUnsupported,
    choose_device,
)

GIB = 2**30
HOPPER = Accelerator("NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB)
AMPERE = Accelerator("NVIDIA A100-SXM4-80GB", (8, 0), 80 * GIB)
NONE = Accelerators("n7", "2.13.0+cpu", why_none="torch 2.13.0+cpu was built without CUDA", triton=True)
TWO = Accelerators("n7", "2.13.0", (HOPPER, HOPPER), triton=True)


def run(device: Device, ranks: int = 2, **train: object) -> RunSpec:
    return RunSpec(
        dataset="d",
        train=replace(TrainSpec(), **train),  # type: ignore[arg-type]
        launch=LaunchSpec(device=device, ranks=ranks),
    )


@pytest.mark.parametrize(
    ("asked", "ranks", "seen", "chosen", "because"),
    [
        (Device.AUTO, 2, TWO, Device.CUDA, "2 x NVIDIA H100 80GB HBM3"),
        (Device.AUTO, 1, replace(TWO, found=(HOPPER, AMPERE)), Device.CUDA, "1 x NVIDIA H100 80GB HBM3"),
        (Device.AUTO, 4, TWO, Device.CPU, "launch.ranks is 4 where n7 shows 2 CUDA devices"),
        (Device.AUTO, 2, NONE, Device.CPU, "was built without CUDA"),
        (Device.CUDA, 2, TWO, Device.CUDA, "2 x NVIDIA H100 80GB HBM3"),
        (Device.CPU, 2, TWO, Device.CPU, "launch.device is 'cpu'"),
    ],
)
def test_a_run_is_where_its_ranks_can_be(
    asked: Device, ranks: int, seen: Accelerators, chosen: Device, because: str
) -> None:
    found = choose_device(run(asked, ranks), seen)
    assert found.device is chosen
    assert because in found.because


@pytest.mark.parametrize(
    ("spec", "seen", "error", "message", "hint"),
    [
        (run(Device.CUDA), NONE, DeviceMissing, "launch.device is 'cuda', and n7 has no", "TORCH=cuda"),
        (run(Device.CUDA, 3), TWO, DeviceMissing, "launch.ranks is 3 where n7 shows 2", "launch.ranks=2"),
        (
            run(Device.AUTO, precision=Precision.FLOAT8),
            NONE,
            PrecisionUnsupported,
            "'float8', which needs CUDA capability 8.9; n7 has no CUDA device that torch can use",
            "train.precision=bf16",
        ),
        (
            run(Device.AUTO, precision=Precision.FLOAT8_ROWWISE),
            replace(TWO, found=(HOPPER, AMPERE)),
            PrecisionUnsupported,
            "needs CUDA capability 9.0; NVIDIA A100-SXM4-80GB has capability 8.0",
            "train.precision=bf16",
        ),
        (
            run(Device.CUDA, precision=Precision.MXFP8),
            TWO,
            PrecisionUnsupported,
            "'mxfp8', which needs CUDA capability 10.0",
            "train.precision=bf16",
        ),
        (
            run(Device.AUTO, kernels=Kernels.FUSED),
            NONE,
            DeviceMissing,
            "train.kernels is 'fused', which needs a CUDA device",
            "train.kernels=plain",
        ),
        (
            run(Device.CUDA, kernels=Kernels.FUSED),
            replace(TWO, triton=False),
            DeviceMissing,
            "Triton, which builds them, is not installed on n7",
            "train.kernels=plain",
        ),
    ],
)
def test_what_cannot_be_there_is_refused_with_key_place_and_remedy(
    spec: RunSpec, seen: Accelerators, error: type[StokerError], message: str, hint: str
) -> None:
    with pytest.raises(error) as refused:
        choose_device(spec, seen)
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_eight_bits_and_fused_kernels_are_let_through_where_they_are_known() -> None:
    spec = run(Device.AUTO, precision=Precision.FLOAT8, kernels=Kernels.FUSED)
    assert choose_device(spec, TWO).device is Device.CUDA
