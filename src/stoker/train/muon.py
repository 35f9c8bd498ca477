"""Muon for matrices, AdamW for the rest, in one optimizer, on shards. See docs/design/train-model.md.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by a nearly
orthogonal matrix of the same singular vectors. That needs the whole matrix, and a rank has a part of it:
all ranks' parts of all matrices are gathered in one collective, each rank orthogonalises the matrices that it
owns, and a second collective hands the results round. A matrix goes through products of the same shapes on
whichever rank, so the world size changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from stoker.train.parallel.pieces import ShardGroup, shard_group

NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients of the quintic iteration: singular values end near one, fast."""


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonalise` take Muon's update, the others AdamW's; weight decay is decoupled in both.

    Muon's update is scaled by 0.2 · sqrt(longer side), the size of AdamW's usual update (Liu et al. 2025,
    arXiv:2502.16982), so that one learning rate fits both. `products` is the type of the matrix
    products that orthogonalise, `device` where they are made: None where the weights lie, which may be the
    host's memory.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        momentum: float,
        products: torch.dtype = torch.bfloat16,
        device: torch.device | None = None,
        iterations: int = 5,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "momentum": momentum,
            "iterations": iterations,
            "eps": eps,
            "weight_decay": 0.0,
            "orthogonalise": False,
        }
        super().__init__(list(groups), defaults)
        self._products = products
        self._device = device

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Stoker's step computes its loss itself."
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonalise"]:
                self._orthogonal_step(parameters, group)
            else:
                self._adam_step(parameters, group)

    def _adam_step(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=_local(parameter).device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        # AdamW is element by element, so a rank updates its own shards and nothing needs the whole.
        adamw(
            [_local(parameter) for parameter in parameters],
            [_local(_gradient(parameter)) for parameter in parameters],
            [_local(state["exp_avg"]) for state in states],
            [_local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _orthogonal_step(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        updates = []
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {"momentum": torch.zeros_like(parameter)}
            momentum = _local(self.state[parameter]["momentum"])
            gradient = _local(_gradient(parameter))
            momentum.lerp_(gradient, 1.0 - group["momentum"])
            # Nesterov's look-ahead, in the type of the products that follow.
            update = gradient.lerp(momentum, group["momentum"])
            updates.append(update.to(device=self._device or update.device, dtype=self._products))
        shares = orthogonalise_shards(parameters, updates, group["iterations"])
        for parameter, share in zip(parameters, shares, strict=True):
            local = _local(parameter)
            local.mul_(1.0 - group["lr"] * group["weight_decay"])
            local.add_(share.to(local.device), alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalise_shards(
    parameters: Sequence[Tensor], updates: Sequence[Tensor], iterations: int
) -> list[Tensor]:
    """This rank's part of every orthogonalised matrix, given its part of each (`updates`, in one type)."""
    shares: list[Tensor] = list(updates)
    buckets: dict[ShardGroup | None, list[int]] = {}
    for index, parameter in enumerate(parameters):
        buckets.setdefault(shard_group(parameter), []).append(index)
    for group, indices in buckets.items():
        if group is None:
            found = [newton_schulz(updates[index], iterations) for index in indices]
        else:
            found = _together(
                group,
                [parameters[index] for index in indices],
                [updates[index] for index in indices],
                iterations,
            )
        for index, share in zip(indices, found, strict=True):
            shares[index] = share
    return shares


def _together(
    group: ShardGroup, parameters: Sequence[Tensor], updates: Sequence[Tensor], iterations: int
) -> list[Tensor]:
    """The same for matrices whose parts lie on one group's ranks: gather, each to its owner, hand round."""
    ranks, rank = group.size, group.rank
    shapes = [(int(parameter.shape[0]), int(parameter.shape[1])) for parameter in parameters]
    pieces = [group.pieces(parameter) for parameter in parameters]  # by matrix, then by rank
    lengths = [max(piece.elements for piece in of_matrix) for of_matrix in pieces]
    owners = assign_owners(shapes, ranks)

    sending = torch.zeros(sum(lengths), dtype=updates[0].dtype, device=updates[0].device)
    for part, update in zip(torch.split(sending, lengths), updates, strict=True):
        part[: update.numel()] = update.reshape(-1)
    by_rank = [torch.split(buffer, lengths) for buffer in _gather(sending, group)]

    results: list[Tensor] = []
    for index, shape in enumerate(shapes):
        if owners[index] == rank:
            whole = torch.empty(shape, dtype=sending.dtype, device=sending.device)
            for piece, parts in zip(pieces[index], by_rank, strict=True):
                piece.of(whole).copy_(parts[index][: piece.elements].view(piece.shape))
            results.append(newton_schulz(whole, iterations))
    loads = [
        sum(rows * columns for index, (rows, columns) in enumerate(shapes) if owners[index] == owner)
        for owner in range(ranks)
    ]
    sending = torch.zeros(max(loads), dtype=updates[0].dtype, device=updates[0].device)
    sending[: loads[rank]] = torch.cat([result.reshape(-1) for result in results] or [sending[:0]])
    gathered = _gather(sending, group)

    shares: list[Tensor] = []
    offsets = [0] * ranks
    for (rows, columns), owner, of_matrix in zip(shapes, owners, pieces, strict=True):
        start = offsets[owner]
        whole = gathered[owner][start : start + rows * columns].view(rows, columns)
        shares.append(of_matrix[rank].of(whole))
        offsets[owner] += rows * columns
    return shares


def assign_owners(shapes: Sequence[tuple[int, int]], world_size: int) -> list[int]:
    """The rank that orthogonalises each matrix: dearest first, to the rank with the least work so far."""
    loads = [0] * world_size
    owners = [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda index: (-_cost(shapes[index]), index)):
        owner = loads.index(min(loads))
        owners[index] = owner
        loads[owner] += _cost(shapes[index])
    return owners


def newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    """A matrix with `matrix`'s singular vectors and singular values near one, in its type."""
    first, second, third = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    current = matrix.T.contiguous() if tall else matrix
    current = current / (current.float().norm() + 1e-7)
    for _ in range(iterations):
        gram = current @ current.T
        current = torch.addmm(
            current, torch.addmm(gram, gram, gram, beta=second, alpha=third), current, beta=first
        )
    return current.T.contiguous() if tall else current


def _cost(shape: tuple[int, int]) -> int:
    short, long = min(shape), max(shape)
    return short * short * (2 * long + short)


def _gather(sending: Tensor, group: ShardGroup) -> list[Tensor]:
    buffers = [torch.empty_like(sending) for _ in range(group.size)]
    distributed.all_gather(buffers, sending, group=group.processes)
    return buffers


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
