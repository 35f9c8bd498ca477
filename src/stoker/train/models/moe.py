"""A mixture of experts: a router, stacked routed experts, a shared one. See docs/design/train-model.md.

Plain single-device code. Expert parallelism shards the first dimension of the stacked weights and wraps
`GroupedExperts.forward`, which sees nothing but rows sorted by expert and how many each expert has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec, RouterScore


class SwiGLU(nn.Module):
    """`down(silu(gate x) * up x)`, `width` elements in and out, `hidden_width` between."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden_width, bias=False)
        self.up = nn.Linear(width, hidden_width, bias=False)
        self.down = nn.Linear(hidden_width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.down(functional.silu(self.gate(hidden)) * self.up(hidden))
        return result


class Router(nn.Module):
    """Chooses `top_k` experts a token, and weighs what they will say.

    `selection_bias` is added for choosing only: the gates are of the scores as they are. It is a buffer, in
    the checkpoint and without a gradient, moved against the load after each step (`balance_experts`).
    """

    selection_bias: Tensor

    def __init__(self, spec: MoeSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.experts, width))
        self.register_buffer("selection_bias", torch.zeros(spec.experts, dtype=torch.float32))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of `[n, width]`: gates fp32 and chosen experts int64 `[n, top_k]`, logits fp32 `[n, experts]`."""
        logits = functional.linear(tokens, self.weight).float()
        scores = logits.softmax(dim=-1) if self.spec.score is RouterScore.SOFTMAX else logits.sigmoid()
        chosen = (scores.detach() + self.selection_bias).topk(self.spec.top_k, dim=-1).indices
        gates = scores.gather(1, chosen)
        if self.spec.normalise_gates:
            gates = gates / (gates.sum(dim=-1, keepdim=True) + 1e-20)
        return gates * self.spec.gate_scale, chosen, logits

    def reset_buffers(self) -> None:
        """No expert is preferred at first."""
        self.selection_bias.zero_()


class GroupedExperts(nn.Module):
    """SwiGLU experts, stacked: `gate`, `up` `[experts, hidden_width, width]`, `down` the other way round."""

    def __init__(self, experts: int, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(experts, hidden_width, width))
        self.up = nn.Parameter(torch.empty(experts, hidden_width, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden_width))

    def forward(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Rows `[n, width]` sorted by expert, `counts` int64 `[experts]` of them; results in that order.

        The counts may sum to less than n; what is after is left alone and its results mean nothing.
        """
        return grouped_swiglu(tokens, counts, self.gate, self.up, self.down)


class MoE(nn.Module):
    """The feed-forward of a block with experts: `shared(x) + Σ gate_i · expert_i(x)` over a token's experts.

    After a forward pass, `aux_loss` is the router z-loss as it was (detached; its gradient goes into the
    backward pass by itself, times `auxiliary_scale`, so no step adds it and pipelines need no second output).
    `load` counts the tokens that chose each expert in passes with a gradient since `balance_experts`; where
    activations are recomputed, it counts twice, so only its proportions mean something.
    """

    load: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.moe is not None
        self.spec = spec.moe
        self.router = Router(spec.moe, spec.width)
        self.experts = GroupedExperts(spec.moe.experts, spec.width, spec.expert_width)
        shared = spec.moe.shared_experts * spec.expert_width
        self.shared = SwiGLU(spec.width, shared) if shared else None
        self.auxiliary_scale = 1.0
        self.aux_loss: Tensor | None = None
        self.register_buffer("load", torch.zeros(spec.moe.experts, dtype=torch.int64), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., width]` to the same."""
        tokens = hidden.reshape(-1, hidden.shape[-1])
        gates, chosen, logits = self.router(tokens)
        if self.spec.z_loss:
            loss = self.spec.z_loss * logits.logsumexp(dim=-1).square().mean()
            self.aux_loss = loss.detach()
            gates = _with_loss(gates, loss * self.auxiliary_scale)
        order, inverse, counts = sort_by_expert(chosen, self.spec.experts)
        if torch.is_grad_enabled():
            self.load += counts
        if self.spec.capacity_factor:
            mixed = self._within_capacity(tokens, gates, chosen, counts)
        else:
            results = self.experts(_spread(tokens, order, inverse, self.spec.top_k), counts)
            mixed = _collect(results, gates, order, inverse)
        if self.shared is not None:
            mixed = mixed + self.shared(tokens)
        return mixed.view(hidden.shape)

    def _within_capacity(self, tokens: Tensor, gates: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
        """The same, but an expert takes only its first `capacity_factor · n · top_k / experts` tokens.

        Those that are left out are sorted behind all others, where no expert looks: shapes do not depend on
        the choice, and nothing waits for it. A left-out choice adds nothing to its token (GShard).
        """
        pairs, experts = chosen.numel(), self.spec.experts
        capacity = math.ceil(self.spec.capacity_factor * pairs / experts)
        late = places_in_expert(chosen, counts).view(chosen.shape) >= capacity
        order, inverse, counts = sort_by_expert(chosen.masked_fill(late, experts), experts + 1)
        taken = torch.arange(pairs, device=tokens.device).unsqueeze(1) < pairs - counts[-1]
        # What the products leave in the rows behind is undefined, in both directions: a mask on either side.
        rows = torch.where(taken, _spread(tokens, order, inverse, self.spec.top_k), 0)
        results = torch.where(taken, self.experts(rows, counts[:-1]), 0)
        return _collect(results, gates.masked_fill(late, 0.0), order, inverse)

    def reset_buffers(self) -> None:
        """Nothing was counted yet."""
        self.load.zero_()


def sort_by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of `chosen` [n, k]: the order of its n·k pairs by expert, the way back, counts int64 [experts]."""
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)
    counts = torch.zeros(experts, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    return order, inverse, counts


def places_in_expert(chosen: Tensor, counts: Tensor) -> Tensor:
    """For each pair of `chosen` [n, k], flat: how many pairs before it chose the same expert."""
    order, inverse, _ = sort_by_expert(chosen, counts.shape[0])
    starts = counts.cumsum(0) - counts
    places = torch.arange(order.shape[0], device=order.device) - starts[chosen.flatten()[order]]
    return places[inverse]


def grouped_swiglu(tokens: Tensor, counts: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU of each run of rows by its expert; what is in rows after the last run is undefined."""
    if not can_group(tokens.dtype, *gate.shape[1:]):
        return _one_by_one(tokens, counts, gate, up, down)
    ends = counts.cumsum(0).to(torch.int32)
    hidden = functional.silu(grouped_product(tokens, gate, ends)) * grouped_product(tokens, up, ends)
    return grouped_product(hidden, down, ends)


def can_group(dtype: torch.dtype, *widths: int) -> bool:
    """Whether torch's grouped product takes rows of these widths: their bytes are multiples of 16.

    What is being compiled must be bf16, too.
    """
    if torch.compiler.is_compiling() and dtype != torch.bfloat16:
        return False
    return all(width * dtype.itemsize % 16 == 0 for width in widths)


def grouped_product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """`rows[i] @ matrices[e].T` for the expert e of row i; `ends` int32 [experts]: where its rows end."""
    return functional.grouped_mm(rows, matrices.transpose(-2, -1), offs=ends)


def _one_by_one(tokens: Tensor, counts: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The same as products of their own, for any widths."""
    sizes = counts.tolist()
    rows = torch.split(tokens, [*sizes, tokens.shape[0] - sum(sizes)])
    # unbind, not indexing: its backward pass stacks the gradients once instead of adding them up. An expert
    # without rows still takes part, so that every matrix has a gradient whatever was chosen.
    results = [
        functional.linear(functional.silu(functional.linear(part, g)) * functional.linear(part, u), d)
        for part, g, u, d in zip(rows, gate.unbind(), up.unbind(), down.unbind(), strict=False)
    ]
    return torch.cat([*results, rows[-1]])


def experts_of(model: nn.Module) -> Iterator[MoE]:
    """Every mixture of experts in a model, in order."""
    return (module for module in model.modules() if isinstance(module, MoE))


def balance_experts(model: nn.Module, sum_over_ranks: Callable[[Tensor], object] | None = None) -> None:
    """Move every selection bias by `balance_rate` towards an even load; call it once after each step.

    The loads of all layers, int64 `[layers, experts]`, go through `sum_over_ranks`, which changes them in
    place: an all-reduce over the ranks that saw different tokens. Wang et al. 2024, arXiv 2408.15664.
    """
    layers = list(experts_of(model))
    if not layers:
        return
    with torch.no_grad():
        loads = torch.stack([layer.load for layer in layers])
        if sum_over_ranks is not None:
            sum_over_ranks(loads)
        loads = loads.float()
        moves = torch.sign(loads.mean(dim=1, keepdim=True) - loads)
        for layer, move in zip(layers, moves, strict=True):
            layer.router.selection_bias.add_(move, alpha=layer.spec.balance_rate)
            layer.load.zero_()


def forget_loads(model: nn.Module) -> None:
    """Take back what a step counted that changes no weight, or what a checkpoint was loaded over."""
    for layer in experts_of(model):
        layer.load.zero_()


def scale_auxiliary_losses(model: nn.Module, scale: float) -> None:
    """Weigh the auxiliary losses of each backward pass: 1 over how many passes a step's gradient sums."""
    for layer in experts_of(model):
        layer.auxiliary_scale = scale


def _with_loss(carrier: Tensor, loss: Tensor) -> Tensor:
    result: Tensor = _WithLoss.apply(carrier, loss)  # type: ignore[no-untyped-call]
    return result


class _WithLoss(torch.autograd.Function):
    """The first argument as it is; the second, a scalar, is a loss: its gradient is one."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, loss: Tensor) -> Tensor:
        return carrier.view_as(carrier)

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, Tensor]:
        return received[0], received[0].new_ones(())


def _spread(tokens: Tensor, order: Tensor, inverse: Tensor, top_k: int) -> Tensor:
    result: Tensor = _Spread.apply(tokens, order, inverse, top_k)  # type: ignore[no-untyped-call]
    return result


class _Spread(torch.autograd.Function):
    """Each token's row once for each of its experts, sorted by expert; gathers both ways, never scatters."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, inverse: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return tokens[order // top_k]

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        gradient = received[0][inverse].view(-1, ctx.top_k, received[0].shape[-1]).sum(dim=1)
        return gradient, None, None, None


def _collect(results: Tensor, gates: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Bring results [n·k, width] back to their tokens and add them up by their gates [n, k]."""
    back: Tensor = _Reorder.apply(results, inverse, order)  # type: ignore[no-untyped-call]
    rows = back.view(*gates.shape, -1)
    return torch.bmm(gates.to(rows.dtype).unsqueeze(1), rows).squeeze(1)


class _Reorder(torch.autograd.Function):
    """Rows in the order `there`; `back` is its inverse."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows[there]

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return received[0][back], None, None
