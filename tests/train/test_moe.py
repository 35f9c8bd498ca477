"""A mixture of experts is what a loop over tokens says, and its load evens out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from stoker.spec.model import InvalidModel, ModelSpec
from stoker.spec.moe import MoeSpec, RouterScore
from stoker.train.loss import next_token_loss
from stoker.train.models import build_model, materialise
from stoker.train.models.moe import (
    GroupedExperts,
    MoE,
    _one_by_one,
    balance_experts,
    can_group,
    forget_loads,
    grouped_product,
    grouped_swiglu,
    scale_auxiliary_losses,
    sort_by_expert,
)
from support.ranks import run_ranks

CPU = torch.device("cpu")
MOE = MoeSpec(experts=6, top_k=2, expert_width=20, shared_experts=1, dense_layers=1)
SPEC = ModelSpec(layers=3, width=24, heads=6, kv_heads=2, ffn_width=40, moe=MOE)


def _layer(spec: MoeSpec = MOE, seed: int = 1) -> MoE:
    model = materialise(build_model(replace(SPEC, moe=spec), 50), seed, CPU)
    return model.blocks[1].feed_forward


def _by_token(layer: MoE, tokens: Tensor, capacity: int | None = None) -> Tensor:
    """The mixture written a second time: one token, one expert at a time."""
    spec, router, experts = layer.spec, layer.router, layer.experts
    taken = [0] * spec.experts
    rows = []
    for token in tokens:
        logits = router.weight @ token
        scores = logits.softmax(0) if spec.score is RouterScore.SOFTMAX else logits.sigmoid()
        chosen = (scores + router.selection_bias).argsort(descending=True)[: spec.top_k].tolist()
        total = scores[chosen].sum() if spec.normalise_gates else 1.0
        row = torch.zeros_like(token)
        for expert in chosen:
            taken[expert] += 1
            if capacity is not None and taken[expert] > capacity:
                continue
            hidden = functional.silu(experts.gate[expert] @ token) * (experts.up[expert] @ token)
            row = row + spec.gate_scale * scores[expert] / total * (experts.down[expert] @ hidden)
        rows.append(row if layer.shared is None else row + layer.shared(token))
    return torch.stack(rows)


def _run(call: Any) -> Any:
    """In a forked process: autograd starts threads, after which this one could not fork safely."""
    return run_ranks(1, lambda rank: call())[0]


@pytest.mark.parametrize(
    "spec",
    [
        MOE,
        replace(MOE, score=RouterScore.SIGMOID, gate_scale=2.5),
        replace(MOE, shared_experts=0, normalise_gates=False, top_k=1),
        replace(MOE, top_k=6, expert_width=0),
    ],
)
def test_the_mixture_is_what_a_loop_over_tokens_says(spec: MoeSpec) -> None:
    with torch.no_grad():
        layer = _layer(spec)
        layer.router.selection_bias.copy_(torch.linspace(-0.2, 0.2, 6))
        tokens = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
        expected = _by_token(layer, tokens.view(14, 24))
        torch.testing.assert_close(layer(tokens).view(14, 24), expected)


def test_gradients_are_those_of_the_loop() -> None:
    def both() -> list[tuple[Tensor, Tensor]]:
        found = []
        for ours in (True, False):
            layer = _layer(replace(MOE, z_loss=0.0))
            leaf = torch.randn(9, 24, generator=torch.Generator().manual_seed(3)).requires_grad_()
            result = layer(leaf) if ours else _by_token(layer, leaf)
            result.square().sum().backward()
            found.append([leaf.grad, *(parameter.grad for parameter in layer.parameters())])
        return list(zip(*found, strict=True))

    pairs = _run(both)
    assert len(pairs) == 8
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_beyond_its_capacity_an_expert_takes_no_token(factor: float) -> None:
    with torch.no_grad():
        layer = _layer(replace(MOE, capacity_factor=factor))
        layer.router.selection_bias.copy_(torch.tensor([1.0, 0.5, 0, 0, 0, 0]))
        tokens = torch.randn(12, 24, generator=torch.Generator().manual_seed(3))
        expected = _by_token(layer, tokens, capacity=int(factor * 12 * 2 / 6))
        found = layer(tokens)
    torch.testing.assert_close(found, expected)


class _Poisoned(GroupedExperts):
    """Leaves no number in the rows that belong to no expert, where grouped products leave anything."""

    def forward(self, tokens: Tensor, counts: Tensor) -> Tensor:
        result = super().forward(tokens, counts)
        rest = torch.arange(len(tokens)).unsqueeze(1) >= counts.sum()
        return torch.where(rest, torch.nan, result)


def test_what_is_left_undefined_reaches_neither_result_nor_gradient() -> None:
    def run() -> list[Tensor]:
        layer = _layer(replace(MOE, capacity_factor=0.5))
        layer.experts.__class__ = _Poisoned
        leaf = torch.randn(12, 24, generator=torch.Generator().manual_seed(3)).requires_grad_()
        result = layer(leaf)
        result.sum().backward()
        return [result.detach(), leaf.grad, *(parameter.grad for parameter in layer.parameters())]

    assert all(tensor.isfinite().all() for tensor in _run(run))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_through_the_experts_and_back_agree(dtype: torch.dtype) -> None:
    def both() -> list[list[Tensor]]:
        generator = torch.Generator().manual_seed(3)
        counts = torch.tensor([3, 0, 9, 4])
        values = [
            torch.randn(*shape, generator=generator).to(dtype)
            for shape in ((16, 24), (4, 16, 24), (4, 16, 24), (4, 24, 16))
        ]
        assert can_group(dtype, 16, 24)
        found = []
        for way in (grouped_swiglu, _one_by_one):
            tokens, *matrices = (value.clone().requires_grad_() for value in values)
            result = way(tokens, counts, *matrices)
            result.square().mean().backward()
            found.append([result.detach(), tokens.grad, *(matrix.grad for matrix in matrices)])
        return found

    for ours, plain in zip(*_run(both), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4 if dtype == torch.float32 else 0.05, atol=0.02)
        assert plain.abs().max() > 0


@pytest.mark.parametrize(("width", "groups"), [(8, True), (4, True), (2, False), (7, False)])
def test_narrow_experts_go_one_by_one(width: int, groups: bool) -> None:
    assert can_group(torch.float32, width, 24) is groups
    with torch.no_grad():
        layer = _layer(replace(MOE, expert_width=width))
        tokens = torch.randn(14, 24, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(layer(tokens), _by_token(layer, tokens))


def test_grouped_products_are_those_of_each_group() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(10, 16, generator=generator)
    matrices = torch.randn(4, 8, 16, generator=generator)
    found = grouped_product(rows, matrices, torch.tensor([3, 3, 9, 10], dtype=torch.int32))
    for expert, (start, end) in enumerate([(0, 3), (3, 3), (3, 9), (9, 10)]):
        torch.testing.assert_close(found[start:end], rows[start:end] @ matrices[expert].T)


def test_sorting_by_expert_keeps_the_order_of_tokens_and_can_be_undone() -> None:
    chosen = torch.tensor([[2, 0], [0, 3], [2, 3]])
    order, inverse, counts = sort_by_expert(chosen, 5)
    assert chosen.flatten()[order].tolist() == [0, 0, 2, 2, 3, 3]
    assert order.tolist() == [1, 2, 0, 4, 3, 5]
    assert order[inverse].tolist() == list(range(6))
    assert counts.tolist() == [2, 0, 2, 2, 0]


def test_a_selection_bias_changes_the_choice_and_not_the_gates() -> None:
    with torch.no_grad():
        layer = _layer(replace(MOE, normalise_gates=False))
        tokens = torch.randn(40, 24, generator=torch.Generator().manual_seed(3))
        scores = layer.router(tokens)[2].softmax(-1)
        layer.router.selection_bias[4] = 5.0
        gates, chosen, _ = layer.router(tokens)
    assert (chosen == 4).any(dim=1).all()
    torch.testing.assert_close(gates, scores.gather(1, chosen))


def test_biases_move_against_the_load_and_even_it_out() -> None:
    def heaviest_of_each_step() -> list[float]:
        layer = _layer(replace(MOE, top_k=1, balance_rate=0.02))
        tokens = torch.randn(600, 24, generator=torch.Generator().manual_seed(3)) + 0.5
        found = []
        for step in range(60):
            layer(tokens)
            load = layer.load.float()
            found.append(float(load.max() / load.mean()))
            balance_experts(layer)
            assert layer.load.sum() == 0
            if step == 0:
                assert torch.equal(layer.router.selection_bias < 0, load > load.mean())
        return found

    heaviest = _run(heaviest_of_each_step)
    assert heaviest[0] > 1.5
    assert heaviest[-1] < 1.15


def test_the_loads_of_all_layers_are_summed_over_ranks_at_once() -> None:
    model = materialise(build_model(SPEC, 50), 1, CPU)
    model(torch.arange(20).view(1, 20))
    calls: list[tuple[int, ...]] = []

    def pretend_other_ranks(loads: Tensor) -> None:
        calls.append(tuple(loads.shape))
        assert loads.sum(dim=1).tolist() == [40, 40]
        loads.copy_(torch.tensor([100, 0, 0, 0, 0, 0]).expand(2, 6))

    balance_experts(model, pretend_other_ranks)
    assert calls == [(2, 6)]
    for block in list(model.blocks)[1:]:
        bias = block.feed_forward.router.selection_bias
        torch.testing.assert_close(bias, torch.tensor([-1e-3, *[1e-3] * 5]))


def test_what_was_counted_for_a_step_that_is_left_out_is_forgotten() -> None:
    layer = _layer()
    layer(torch.ones(3, 24))
    assert layer.load.sum() == 6
    forget_loads(layer)
    balance_experts(layer)
    assert layer.router.selection_bias.abs().sum() == 0


def test_evaluation_counts_no_load() -> None:
    layer = _layer()
    with torch.no_grad():
        layer(torch.ones(3, 24))
    assert layer.load.sum() == 0


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_z_loss_reaches_the_gradient_by_itself(scale: float) -> None:
    def gradients() -> tuple[Tensor, Tensor, Tensor, float]:
        tokens = torch.randn(30, 24, generator=torch.Generator().manual_seed(3))
        weights = []
        for coefficient in (0.5, 0.0):
            layer = _layer(replace(MOE, z_loss=coefficient))
            scale_auxiliary_losses(layer, scale)
            layer(tokens).square().sum().backward()
            weights.append(layer.router.weight)
        layer = _layer(replace(MOE, z_loss=0.5))
        z_loss = 0.5 * layer.router(tokens)[2].logsumexp(-1).square().mean()
        (expected,) = torch.autograd.grad(z_loss, layer.router.weight)
        layer(tokens)
        assert layer.aux_loss is not None
        return weights[0].grad - weights[1].grad, expected * scale, z_loss.detach(), float(layer.aux_loss)

    found, expected, z_loss, shown = _run(gradients)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert shown == pytest.approx(float(z_loss))


def test_a_decoder_with_experts_learns_and_has_the_parameters_of_its_formula() -> None:
    def train() -> tuple[float, float]:
        model = materialise(build_model(SPEC, 50), 1, CPU)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        batch = torch.randint(0, 50, (4, 17), generator=torch.Generator().manual_seed(3))
        losses = []
        for _ in range(20):
            loss = next_token_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            balance_experts(model)
            losses.append(loss.item())
        return losses[0], losses[-1]

    first, last = _run(train)
    assert last < 0.5 * first
    built = sum(parameter.numel() for parameter in build_model(SPEC, 50).parameters())
    assert built == SPEC.parameters(50)


def test_selection_biases_are_in_the_state_and_loads_are_not() -> None:
    names = set(build_model(SPEC, 50).state_dict())
    assert "blocks.1.feed_forward.router.selection_bias" in names
    assert not any(name.endswith("load") for name in names)


def test_an_experts_first_weights_do_not_depend_on_how_many_there_are() -> None:
    few, many = _layer(replace(MOE, experts=4)), _layer(replace(MOE, experts=6))
    assert torch.equal(few.experts.gate, many.experts.gate[:4])
    assert not torch.equal(many.experts.gate[0], many.experts.gate[1])
    assert many.experts.down.std().item() == pytest.approx((20 * 2 * 3) ** -0.5, rel=0.1)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (replace(MOE, top_k=7), "moe.top_k is 7; it must be at most experts, 6"),
        (replace(MOE, experts=0), "moe.experts is 0"),
        (replace(MOE, dense_layers=4), "moe.dense_layers is 4; it must be at most layers, 3"),
        (replace(MOE, z_loss=float("nan")), "moe.z_loss is nan"),
        (replace(MOE, gate_scale=0.0), "moe.gate_scale is 0.0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(spec: MoeSpec, expected: str) -> None:
    with pytest.raises(InvalidModel, match=expected):
        build_model(replace(SPEC, moe=spec), 50)


def test_a_compiled_block_with_experts_is_one_graph_and_the_same() -> None:
    def both() -> list[list[Tensor]]:
        layer = _layer(replace(MOE, expert_width=8, capacity_factor=1.0)).bfloat16()
        tokens = torch.randn(20, 24, generator=torch.Generator().manual_seed(3)).bfloat16()
        found = []
        for compiled in (False, True):
            if compiled:
                layer.compile(backend="aot_eager", fullgraph=True)
            layer.zero_grad()
            result = layer(tokens)
            result.square().mean().backward()
            found.append([result.detach(), layer.experts.gate.grad, layer.aux_loss, layer.load.clone()])
            layer.load.zero_()
        return found

    for plain, compiled in zip(*_run(both), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=0.05, atol=0.01)
        assert plain.abs().max() > 0
