"""Where a run's ranks compute: what was asked for beside what the machine has. See docs/design/devices.md.

Nothing here loads torch: the supervisor decides before any rank exists. `stoker.train.hardware_probe` is the
program that looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stoker.core.errors import StokerError
from stoker.spec.run import EIGHT_BITS, Device, Kernels, Precision, RunSpec, TrainSpec

NEEDED: Final[dict[Precision, tuple[int, int]]] = {
    Precision.FLOAT8: (8, 9),
    Precision.FLOAT8_ROWWISE: (9, 0),
    Precision.MXFP8: (10, 0),
}
"""The least CUDA capability of each: Ada, Hopper, Blackwell."""


class DeviceMissing(StokerError):
    """A device that a run asks for, or that what it asks for needs, is not on this machine."""

    exit_code = 125


class PrecisionUnsupported(StokerError):
    """A precision of matrix products that this device has no instructions for."""

    exit_code = 124


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One CUDA device as torch sees it; `capability` is NVIDIA's, such as (9, 0) for Hopper."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Accelerators:
    """What one look at a machine found. `why_none` says why torch can use none; empty when it can.

    `node` is the machine's name, `torch` the version that looked, `triton` whether its kernels can be made.
    """

    node: str
    torch: str
    found: tuple[Accelerator, ...] = ()
    why_none: str = ""
    triton: bool = False


@dataclass(frozen=True, slots=True)
class ChosenDevice:
    """Where every rank of a run computes, CPU or CUDA, and why, in words for people."""

    device: Device
    because: str


def choose_device(spec: RunSpec, seen: Accelerators) -> ChosenDevice:
    """Where the ranks of `spec` compute on a machine where `seen` was found.

    Raises DeviceMissing and PrecisionUnsupported, naming the key, the machine and the remedy, when what the
    run file asks for cannot be there.
    """
    asked = spec.launch.device
    missing = _missing(spec, seen)
    if asked is Device.CPU:
        because = "launch.device is 'cpu'"
    elif missing is None:
        _require_precision(spec.train.precision, seen)
        _require_triton(spec, seen)
        names = sorted({each.name for each in seen.found[: spec.launch.ranks]})
        return ChosenDevice(Device.CUDA, f"{spec.launch.ranks} x {', '.join(names)}")
    else:
        because, remedy = missing
        if asked is Device.CUDA:
            raise DeviceMissing(
                f"launch.device is 'cuda', and {because}.", hint=f"{remedy} Or set launch.device=cpu."
            )
    refuse_on_cpu(spec.train, because)
    return ChosenDevice(Device.CPU, because)


def _missing(spec: RunSpec, seen: Accelerators) -> tuple[str, str] | None:
    """What keeps the run from CUDA, and the remedy; None when it can be there."""
    if not seen.found:
        why = seen.why_none or "no device is visible"
        return (
            f"{seen.node} has no CUDA device that torch can use: {why}",
            "Start it on a machine with one, with PyTorch's CUDA build (make setup TORCH=cuda).",
        )
    if spec.launch.ranks > len(seen.found):
        return (
            f"launch.ranks is {spec.launch.ranks} where {seen.node} shows {len(seen.found)} CUDA devices; "
            "each rank needs its own",
            f"Set launch.ranks={len(seen.found)}, or let CUDA_VISIBLE_DEVICES name more.",
        )
    return None


def require_capability(precision: Precision, device: Accelerator) -> None:
    """Raise PrecisionUnsupported unless the device multiplies in that precision itself."""
    needed, found = NEEDED.get(precision, (0, 0)), device.capability
    if found < needed:
        raise PrecisionUnsupported(
            f"train.precision is '{precision}', which needs CUDA capability {needed[0]}.{needed[1]}; "
            f"{device.name} has capability {found[0]}.{found[1]}.",
            hint="Set train.precision=bf16.",
        )


def refuse_on_cpu(train: TrainSpec, because: str) -> None:
    """Raise PrecisionUnsupported or DeviceMissing when a run asks for what only CUDA has.

    `because` says why it is not there.
    """
    if train.precision in EIGHT_BITS:
        needed = NEEDED[train.precision]
        raise PrecisionUnsupported(
            f"train.precision is '{train.precision}', which needs CUDA capability {needed[0]}.{needed[1]}; "
            f"{because}.",
            hint="Set train.precision=bf16.",
        )
    if train.kernels is Kernels.FUSED:
        raise DeviceMissing(
            f"train.kernels is 'fused', which needs a CUDA device; {because}.",
            hint="Set train.kernels=plain.",
        )


def _require_precision(precision: Precision, seen: Accelerators) -> None:
    for each in seen.found:
        require_capability(precision, each)


def _require_triton(spec: RunSpec, seen: Accelerators) -> None:
    if spec.train.kernels is Kernels.FUSED and not seen.triton:
        raise DeviceMissing(
            f"train.kernels is 'fused', and Triton, which builds them, is not installed on {seen.node}.",
            hint="PyTorch's CUDA builds for Linux bring it. Or set train.kernels=plain.",
        )
