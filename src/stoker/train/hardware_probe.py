"""`python -m stoker.train.hardware_probe`: prints, as JSON, which CUDA devices torch can use here.

A process of its own, for two reasons: the supervisor loads no torch, and looking at devices takes memory on
each that would stay taken. It begins the driver too, so that device files are there before ranks are held to
a list of them. See docs/design/devices.md.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.util import find_spec

from stoker.core.result import plain
from stoker.train.hardware import Accelerator, Accelerators


def look() -> Accelerators:
    """What torch finds on this machine; why it can use no device, if so."""
    import torch

    node, triton = platform.node() or "this machine", find_spec("triton") is not None
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} was built without CUDA"
        return Accelerators(node, torch.__version__, why_none=why, triton=triton)
    try:
        # Not is_available(): that says no more than no.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        found = tuple(_device(index) for index in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0][:300]
        return Accelerators(node, torch.__version__, why_none=f"CUDA does not begin ({why})", triton=triton)
    return Accelerators(node, torch.__version__, found, triton=triton)


def _device(index: int) -> Accelerator:
    import torch

    told = torch.cuda.get_device_properties(index)
    return Accelerator(told.name, (told.major, told.minor), told.total_memory)


if __name__ == "__main__":
    json.dump(plain(look()), sys.stdout)
