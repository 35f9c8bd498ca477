"""Our cross-entropy is torch's, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from stoker.train import loss
from stoker.train.loss import CrossEntropy
from support.ranks import run_ranks

Found = tuple[torch.Tensor, torch.Tensor]


def draw(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(37, 50, generator=generator) * 20).to(dtype).requires_grad_()
    return logits, torch.randint(0, 50, (37,), generator=generator)


def expected(dtype: torch.dtype) -> Found:
    logits, targets = draw(dtype)
    value = functional.cross_entropy(logits.float(), targets)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def found(dtype: torch.dtype, scale: float = 1.0) -> Found:
    logits, targets = draw(dtype)
    value = CrossEntropy.apply(logits, targets)
    (value * scale).backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("piece_bytes", [1, 10 * 4 * 50, 1 << 20])
def test_value_and_gradient_are_those_of_torch_for_every_size_of_piece(
    dtype: torch.dtype, tolerance: float, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PIECE_BYTES", piece_bytes)
    (value, gradient), (torch_value, torch_gradient) = run_ranks(
        1, lambda rank: (found(dtype), expected(dtype))
    )[0]
    torch.testing.assert_close(value, torch_value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, torch_gradient, rtol=tolerance, atol=tolerance * 1e-2)


def test_the_gradient_follows_what_the_loss_is_multiplied_with() -> None:
    (_, once), (_, thrice) = run_ranks(
        1, lambda rank: (found(torch.float32), found(torch.float32, scale=3.0))
    )[0]
    torch.testing.assert_close(thrice, 3 * once)


def test_logits_far_apart_do_not_overflow() -> None:
    with torch.no_grad():
        value = CrossEntropy.apply(torch.tensor([[3e4, 0.0], [-3e4, 3e4]]), torch.tensor([1, 1]))
    assert float(value) == pytest.approx(1.5e4)
