"""The device that a rank computes on, and what differs by its kind. See docs/design/devices.md.

All else of the engine is one code for every kind: it makes tensors where its inputs are, and what ranks tell
one another lies in the host's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import deterministic as deterministic_settings

from stoker.spec.layout import LayoutSpec
from stoker.spec.run import Device, LaunchSpec
from stoker.train.hardware import DeviceMissing
from stoker.train.objectives.objective import Batch

HOST: Final = torch.device("cpu")

BACKENDS: Final[Mapping[Device, str]] = {Device.CPU: "gloo", Device.CUDA: "cpu:gloo,cuda:nccl"}
"""The process group of each kind: what lies in the host's memory always goes over gloo."""


def take_device(kind: Device, local_rank: int) -> torch.device:
    """The device of the `local_rank`-th rank on this node; a CUDA device is this process's from then on.

    Raises DeviceMissing when it is not there, which the supervisor has looked for.
    """
    if kind is not Device.CUDA:
        return HOST
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank >= count:
        raise DeviceMissing(
            f"Rank {local_rank} of this node needs CUDA device {local_rank}, and {count} are here.",
            hint="Let CUDA_VISIBLE_DEVICES name one for each rank, or set launch.device=cpu.",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def settle_arithmetic(seed: int, threads: int, *, deterministic: bool) -> None:
    """How products are summed, on every kind of device: fixed threads, a known random state, no TF32.

    `deterministic`: the same bits on every run; operators that have no such form raise. fp32 means fp32: the
    tensor cores' TF32 keeps 10 bits of its 23, which is no precision that a run file names.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    # Only debugging needs memory to be filled before it is written.
    deterministic_settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    torch.manual_seed(seed)  # of every device's generator


def weights_device(layout: LayoutSpec, device: torch.device) -> torch.device:
    """Where parameters and optimizer state lie between their uses, of a model that computes on `device`."""
    return HOST if layout.cpu_offload else device


def pins_batches(launch: LaunchSpec, device: torch.device) -> bool:
    """Whether the feed's memory is page-locked."""
    return device.type == "cuda" and launch.pin_batches


class Arrivals:
    """Batches on their way from the feed's memory to a device.

    A copy out of page-locked memory goes on while this process does; the feed uses that memory again, so the
    next batch is asked for after `settle`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copied: Any = None

    def bring(self, batch: Batch) -> Batch:
        """The batch on the device; on the host the very tensors."""
        if self._device == HOST:
            return batch
        moved: Batch
        if isinstance(batch, Tensor):
            moved = batch.to(self._device, non_blocking=True)
        else:
            moved = {name: each.to(self._device, non_blocking=True) for name, each in batch.items()}
        self._copied = torch.get_device_module(self._device).Event()
        self._copied.record()
        return moved

    def settle(self) -> None:
        """Wait until every batch has arrived, so that the memory it came from may be used again."""
        copied, self._copied = self._copied, None
        if copied is not None:
            copied.synchronize()
