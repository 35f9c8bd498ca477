"""The decoder with written-out blocks, for CUDA: the same function and the same weights, in fewer passes.

Tied heads, query and key norms, biases, experts and stretched positions are not written out: `fits` says
whether a model is. See
docs/design/train-gpu.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stoker.spec.kernels import fits
from stoker.spec.model import ModelSpec
from stoker.train.fused.block import BlockShape, FusedBlock, SmallBlock
from stoker.train.fused.kernels.norm import rms_backward, rms_forward
from stoker.train.fused.loss import HeadLoss
from stoker.train.models.decoder import Decoder
from stoker.train.models.norm import rotation


@dataclass(frozen=True, slots=True)
class FusedChoices:
    """How the step is made. `keep` spends memory to save passes; in the loss tokens come in `pieces`."""

    keep: bool = True
    float8: bool = False
    float8_head: bool = False
    fast_gradients: bool = False
    pieces: int = 4


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, epsilon: float
    ) -> Tensor:
        y, scale = rms_forward(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *received: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        dx, dweight = rms_backward(received[0], x, weight, scale, torch.zeros_like(x))
        return dx, dweight, None


class FusedDecoder(nn.Module):
    """Tokens to a loss. Parameters are those of `Decoder`, merged by block; made from one by `of`."""

    def __init__(self, spec: ModelSpec, vocabulary: int, choices: FusedChoices) -> None:
        super().__init__()
        assert fits(spec), "the caller asks `fits` first"
        self.spec, self.choices = spec, choices
        wide = spec.width + 2 * spec.kv_width
        self.embedding = nn.Parameter(torch.empty(vocabulary, spec.width))
        self.norm1 = nn.ParameterList(torch.empty(spec.width) for _ in range(spec.layers))
        self.qkv = nn.ParameterList(torch.empty(wide, spec.width) for _ in range(spec.layers))
        self.out = nn.ParameterList(torch.empty(spec.width, spec.width) for _ in range(spec.layers))
        self.norm2 = nn.ParameterList(torch.empty(spec.width) for _ in range(spec.layers))
        self.gate_up = nn.ParameterList(
            torch.empty(2 * spec.ffn_width, spec.width) for _ in range(spec.layers)
        )
        self.down = nn.ParameterList(torch.empty(spec.width, spec.ffn_width) for _ in range(spec.layers))
        self.norm = nn.Parameter(torch.empty(spec.width))
        self.head = nn.Parameter(torch.empty(vocabulary, spec.width))

    @classmethod
    def of(cls, decoder: Decoder, choices: FusedChoices) -> FusedDecoder:
        """The same weights, copied, in the same type on the same device."""
        with torch.device("meta"):
            made = cls(decoder.spec, decoder.vocabulary, choices)
        like = decoder.get_parameter("embedding.weight")
        made = made.to_empty(device=like.device).to(like.dtype)
        with torch.no_grad():
            for own, theirs in made.sources():
                own.copy_(torch.cat([decoder.get_parameter(f"{name}.weight") for name in theirs]))
        return made

    def sources(self) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
        """Each parameter, and the modules of `Decoder` whose weights it holds, one behind the other."""
        yield self.embedding, ("embedding",)
        yield self.norm, ("norm",)
        yield self.head, ("head",)
        for number in range(self.spec.layers):
            block = f"blocks.{number}"
            yield self.norm1[number], (f"{block}.attention_norm",)
            yield self.qkv[number], tuple(f"{block}.attention.{name}" for name in ("query", "key", "value"))
            yield self.out[number], (f"{block}.attention.output",)
            yield self.norm2[number], (f"{block}.feed_forward_norm",)
            yield self.gate_up[number], tuple(f"{block}.feed_forward.{name}" for name in ("gate", "up"))
            yield self.down[number], (f"{block}.feed_forward.down",)

    def forward(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy in nats of each token after the first; `batch` int64 `[rows, length + 1]`."""
        spec, choices = self.spec, self.choices
        tokens, targets = batch[:, :-1].contiguous(), batch[:, 1:].flatten()
        cosine, sine = rotation(tokens.shape[1], spec.head_elements, spec.rope_base, batch.device)
        shape = BlockShape(
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            length=tokens.shape[1],
            epsilon=spec.norm_epsilon,
            cosine=cosine.squeeze(1).contiguous(),
            sine=sine.squeeze(1).contiguous(),
            keep=choices.keep,
            float8=choices.float8,
            fast_gradients=choices.fast_gradients,
        )
        block = SmallBlock if choices.float8 else FusedBlock
        hidden = nn.functional.embedding(tokens.flatten(), self.embedding)
        for weights in zip(self.norm1, self.qkv, self.out, self.norm2, self.gate_up, self.down, strict=True):
            hidden = block.apply(hidden, *weights, shape)  # type: ignore[no-untyped-call]
        hidden = _Norm.apply(hidden, self.norm, spec.norm_epsilon)  # type: ignore[no-untyped-call]
        loss: Tensor = HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden, self.head, targets, choices.pieces, choices.float8_head
        )
        return loss
