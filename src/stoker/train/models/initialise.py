"""Deterministic first weights, the same whatever the sharding. See docs/design/train-model.md.

Each parameter has its own random generator, seeded by the run's seed and the parameter's name; a large one,
and stacked experts, have one for each run of rows. A rank draws what holds its own share, so nothing is sent,
any world size starts from the same weights, and no rank draws a model of a trillion parameters whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from stoker.train.models.moe import GroupedExperts

LARGE_ELEMENTS: Final = 1 << 28
"""From here on a matrix is drawn in runs of rows."""

RUN_ELEMENTS: Final = 1 << 24
"""How many elements such a run has, about."""


def materialise(
    model: nn.Module, seed: int, device: torch.device, *, weights: torch.device | None = None
) -> nn.Module:
    """Give a model on the meta device storage and its first weights; call it after `parallelize`.

    The model computes on `device`, and its buffers are there; `weights` is where its parameters lie instead.
    The model says `spec.layers` and `residual_outputs`, the ends of the names of matrices that write into the
    residual stream; it may say `zero_at_first`, the ends of those that begin at zero. A module with buffers
    has `reset_buffers()`, which fills them.
    """
    layers: int = model.spec.layers  # type: ignore[union-attr, assignment]
    residual: tuple[str, ...] = model.residual_outputs  # type: ignore[assignment]
    zero: tuple[str, ...] = getattr(model, "zero_at_first", ())
    model.to_empty(device=weights or device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type != device.type:
                module._buffers[name] = torch.empty_like(buffer, device=device)
    with torch.no_grad():
        for name, module, parameter in _parameters(model):
            if name.endswith(zero):
                parameter.zero_()
                continue
            depth = 2 * layers if name.endswith(residual) else 1
            _fill(parameter, f"{seed}/{name}", depth, stacked=isinstance(module, GroupedExperts))
        for module in model.modules():
            reset = getattr(module, "reset_buffers", None)
            if reset is not None:
                reset()
    return model


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Every parameter with its full name and the module that holds it."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, module, parameter


def _fill(parameter: Tensor, seed: str, depth: int, *, stacked: bool) -> None:
    """Draw this rank's share of a parameter, one run of rows after the other."""
    shape = tuple(parameter.shape)
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    if len(shape) == 1:
        # Biases begin at zero, norms at one.
        local.fill_(0.0 if seed.endswith("bias") else 1.0)
        return
    if local.numel() == 0:
        return
    rows, *others = [_own_places(parameter, dim) for dim in range(len(shape))]
    first, last = int(rows.min()), int(rows.max())
    run_rows = _rows_of_a_run(shape, stacked)
    deviation = 1.0 / math.sqrt(math.prod(shape[2:] if stacked else shape[1:]))
    if depth > 1:
        deviation /= math.sqrt(depth)
    for start in range(first - first % run_rows, last + 1, run_rows):
        drawn_rows = min(run_rows, shape[0] - start)
        name = seed if run_rows == shape[0] and not stacked else f"{seed}/{start // run_rows}"
        drawn = draw(name, (drawn_rows, *shape[1:]), deviation)
        here = (rows >= start) & (rows < start + drawn_rows)
        part = drawn[rows[here] - start]
        for dim, places in enumerate(others, start=1):
            if len(places) < shape[dim]:
                part = part.index_select(dim, places)
        local[here.to(local.device)] = part.to(local.device)


def draw(seed: str, shape: tuple[int, ...], deviation: float) -> Tensor:
    """Normal numbers of mean 0, fp32, by a generator of this seed: SHA-256's first 63 bits of it."""
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)


def _rows_of_a_run(shape: tuple[int, ...], stacked: bool) -> int:
    """How many rows one generator draws: one expert; a run of a large matrix; else all."""
    if stacked:
        return 1
    columns = math.prod(shape[1:])
    return shape[0] if shape[0] * columns < LARGE_ELEMENTS else max(1, RUN_ELEMENTS // columns)


def _own_places(parameter: Tensor, dim: int) -> Tensor:
    """Which places of dimension `dim` this rank has of a parameter, int64.

    The places themselves are distributed as the parameter is along that dimension: what lies where is known
    to DTensor, and to nothing here.
    """
    if not isinstance(parameter, DTensor):
        return torch.arange(parameter.shape[dim])
    line = torch.arange(parameter.shape[dim], device=parameter.device_mesh.device_type)
    line = line.view(*(-1 if each == dim else 1 for each in range(parameter.dim())))
    placements = [
        placement if getattr(placement, "dim", None) == dim else Replicate()
        for placement in parameter.placements
    ]
    # src_data_rank=None: every rank cuts its own share; nothing is sent.
    found = distribute_tensor(line, parameter.device_mesh, placements, src_data_rank=None)
    return found.to_local().flatten().cpu()
