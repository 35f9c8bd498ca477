"""Decoder language models by their shape, with their parameter and FLOP formulas, here and nowhere else.

The model is the one of `stoker.train.models`: token embedding; `layers` blocks of RMSNorm, grouped-query
attention, RMSNorm, SwiGLU; a last RMSNorm; an output matrix that may be the embedding. No biases.
The formulas and their convention are derived in docs/design/spec.md.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError


class InvalidModel(StokerError):
    """Sizes of a model that do not fit each other, or none at all; the message lists every mistake."""

    exit_code = 100


class AttentionCount(enum.StrEnum):
    """Which query-key pairs a FLOP count holds."""

    ALL_PAIRS = "all_pairs"
    """Every pair, as if nothing were masked: the convention of MFU in PaLM, appendix B."""

    CAUSAL = "causal"
    """Only the pairs that the causal mask keeps: the least that must be computed."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder: RoPE, grouped-query attention, SwiGLU, RMSNorm. Sizes in elements."""

    layers: int = 4
    width: int = 128
    heads: int = 2
    kv_heads: int = 1
    ffn_width: int = 384
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        sizes = {
            "layers": self.layers,
            "width": self.width,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "ffn_width": self.ffn_width,
        }
        for name, size in sizes.items():
            if size < 1:
                yield f"{name} is {size}; it must be at least 1"
        for name, value in {"rope_base": self.rope_base, "norm_epsilon": self.norm_epsilon}.items():
            if not (math.isfinite(value) and value > 0):
                yield f"{name} is {value}; it must be a number above 0"
        if self.width > 0 and self.heads > 0:
            if self.width % self.heads:
                yield f"width {self.width} is not divisible by heads {self.heads}"
            elif self.head_width % 2:
                yield (
                    f"width {self.width} / heads {self.heads} gives a head width of {self.head_width}; "
                    "it must be divisible by 2, since RoPE turns pairs"
                )
        if self.heads > 0 and self.kv_heads > 0 and self.heads % self.kv_heads:
            yield f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}"

    def validate(self) -> None:
        """Raise InvalidModel, listing every problem, when there is any."""
        problems = list(self.problems())
        if problems:
            raise InvalidModel(
                f"This model cannot be built: {'; '.join(problems)}.",
                hint="Change these values under [model].",
            )

    @property
    def head_width(self) -> int:
        """The elements of one attention head."""
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """The elements of all key heads together, and of all value heads together."""
        return self.kv_heads * self.head_width

    @property
    def layer_matrix_parameters(self) -> int:
        """The parameters of one block's matrices: those that every token is multiplied with."""
        query_and_output = 2 * self.width * self.width  # width -> heads x head_width, and back
        key_and_value = 2 * self.width * self.kv_width  # width -> kv_heads x head_width, twice
        gate_up_down = 3 * self.width * self.ffn_width  # SwiGLU: two matrices in, one out
        return query_and_output + key_and_value + gate_up_down

    def parameters(self, vocabulary: int) -> int:
        """The trained parameters for a vocabulary of `vocabulary` tokens; tied embeddings count once."""
        block_norms = 2 * self.width  # before attention and before SwiGLU
        query_and_key_norms = 2 * self.head_width if self.qk_norm else 0  # one weight shared by all heads
        layer = self.layer_matrix_parameters + block_norms + query_and_key_norms
        last_norm = self.width
        tables = 1 if self.tied_embeddings else 2  # the embedding, and the output matrix when it is another
        return self.layers * layer + last_norm + tables * vocabulary * self.width

    def forward_flops_per_token(
        self, vocabulary: int, sequence_tokens: int, count: AttentionCount = AttentionCount.ALL_PAIRS
    ) -> float:
        """Model FLOPs of the forward pass for each token of sequences of `sequence_tokens`.

        A multiply and an add are two FLOPs. Matrix products only: the embedding is a lookup; norms, RoPE,
        softmax, SiLU and the loss are left out, as is usual for MFU.
        """
        matrices = 2 * self.layers * self.layer_matrix_parameters  # one multiply and add a parameter
        output = 2 * self.width * vocabulary  # logits: computed whether the matrix is tied or not
        # A token's query meets `pairs` keys. Scores: heads dot products of head_width elements, a multiply
        # and an add each, so 2 x width a pair; the weighted sum of values costs the same again.
        pairs = float(sequence_tokens) if count is AttentionCount.ALL_PAIRS else (sequence_tokens + 1) / 2
        attention = self.layers * 2 * 2 * self.width * pairs
        return matrices + output + attention

    def training_flops_per_token(
        self, vocabulary: int, sequence_tokens: int, count: AttentionCount = AttentionCount.ALL_PAIRS
    ) -> float:
        """Model FLOPs of forward and backward for each token: three times the forward pass.

        The backward pass multiplies twice for each product of the forward pass, once for the gradient of
        each factor. Recomputed activations are not counted: this is the numerator of MFU, not of HFU.
        """
        return 3 * self.forward_flops_per_token(vocabulary, sequence_tokens, count)
