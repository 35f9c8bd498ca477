"""On which devices a run's ranks are started, decided before anything of the run exists.

See docs/design/devices.md. The supervisor loads no torch: a program of its own looks, and is not even started
where there is nothing to be found.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stoker.core.config import from_plain
from stoker.spec.run import Device, RunSpec
from stoker.train.hardware import Accelerators, ChosenDevice, DeviceMissing, choose_device

PROBE: Final = (sys.executable, "-P", "-m", "stoker.train.hardware_probe")
PROBE_TIMEOUT_S: Final = 120.0
"""The first look after a machine has started may wait for the driver."""

DEVICES: Final = Path("/dev")
_KINDS: Final = ("nvidia[0-9]*", "dxg")
"""Files of the NVIDIA driver's devices, and Windows' for its Linux."""


def device_for(spec: RunSpec, environment: Mapping[str, str], devices: Path = DEVICES) -> ChosenDevice:
    """Where the ranks of `spec` compute. Raises DeviceMissing and PrecisionUnsupported."""
    return choose_device(spec, _seen(spec.launch.device, environment, devices))


def _seen(asked: Device, environment: Mapping[str, str], devices: Path) -> Accelerators:
    node = platform.node() or "this machine"
    if asked is Device.CPU:
        return Accelerators(node, "", why_none="nobody looked")
    if asked is Device.AUTO and not any(True for kind in _KINDS for _ in devices.glob(kind)):
        return Accelerators(node, "", why_none="it has no device files of a driver")
    return look(environment)


def device_environment(device: Device, *, bounded: bool) -> Mapping[str, str]:
    """What ranks on `device` need in their environment; `bounded`: the kernel holds where they write.

    cuBLAS computes the same bits again with a workspace of a fixed size. NCCL leaves loopback out unless it
    is named; ranks of one node have nothing else, and no fabric. Its segments in /dev/shm are closed to
    bounded ranks; they use the devices' own links, or sockets.
    """
    if device is not Device.CUDA:
        return {}
    closed = {"NCCL_SHM_DISABLE": "1"} if bounded else {}
    return {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_IB_DISABLE": "1",
        **closed,
    }


def look(environment: Mapping[str, str]) -> Accelerators:
    """What `stoker.train.hardware_probe` finds. Raises DeviceMissing when it does not answer."""
    try:
        done = subprocess.run(
            PROBE,
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceMissing(
            f"The program that looks for CUDA devices gave no answer within {PROBE_TIMEOUT_S:.0f} s.",
            hint="Try `nvidia-smi`: a driver that hangs needs a restart. Or set launch.device=cpu.",
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise DeviceMissing(
            f"The program that looks for CUDA devices failed: {last[0][:300]}.",
            hint="Run `python -m stoker.train.hardware_probe` to see all of it. Or set launch.device=cpu.",
        )
    return from_plain(Accelerators, json.loads(done.stdout), "what was found of CUDA devices")
