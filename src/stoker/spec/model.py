"""Decoder language models by their shape, with their parameter and FLOP formulas, here and nowhere else.

The model is the one of `stoker.train.models`: token embedding; `layers` blocks of RMSNorm, grouped-query
attention, RMSNorm, SwiGLU or a mixture of experts; a last RMSNorm; an output matrix, perhaps the embedding.
The formulas and their convention are derived in docs/design/spec.md.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields

from stoker.core.canonical import JsonValue
from stoker.core.errors import StokerError
from stoker.core.result import plain
from stoker.spec.moe import MoeSpec
from stoker.spec.rope import RopeScalingSpec


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
    """A decoder: RoPE, grouped-query attention, SwiGLU, RMSNorm. Sizes in elements.

    `head_width` 0 is `width / heads`; `qkv_bias` adds biases to query, key and value, as Qwen2 has;
    with `moe`, experts stand in place of the feed-forward of all blocks but the first `moe.dense_layers`.
    """

    layers: int = 4
    width: int = 128
    heads: int = 2
    kv_heads: int = 1
    ffn_width: int = 384
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True
    head_width: int = 0
    qkv_bias: bool = False
    rope_scaling: RopeScalingSpec | None = None
    moe: MoeSpec | None = None

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values.

        Those inside `rope_scaling` and `moe` are told by these.
        """
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
        if self.head_width < 0:
            yield f"head_width is {self.head_width}; it must be 0, for width / heads, or more"
        elif self.head_width % 2:
            yield f"head_width is {self.head_width}; it must be divisible by 2, since RoPE turns pairs"
        if self.width > 0 and self.heads > 0 and self.head_width == 0:
            if self.width % self.heads:
                yield f"width {self.width} is not divisible by heads {self.heads}"
            elif self.head_elements % 2:
                yield (
                    f"width {self.width} / heads {self.heads} gives a head width of {self.head_elements}; "
                    "it must be divisible by 2, since RoPE turns pairs"
                )
        if self.heads > 0 and self.kv_heads > 0 and self.heads % self.kv_heads:
            yield f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}"
        if self.moe is not None and self.moe.dense_layers > self.layers >= 1:
            yield f"moe.dense_layers is {self.moe.dense_layers}; it must be at most layers, {self.layers}"

    def validate(self) -> None:
        """Raise InvalidModel, listing every problem, when there is any."""
        problems = list(self.problems())
        for name, inner in (("rope_scaling", self.rope_scaling), ("moe", self.moe)):
            if inner is not None:
                problems.extend(f"{name}.{problem}" for problem in inner.problems())
        if problems:
            raise InvalidModel(
                f"This model cannot be built: {'; '.join(problems)}.",
                hint="Change these values under [model].",
            )

    def shape(self) -> dict[str, JsonValue]:
        """What a checkpoint is of, as JSON; later settings are there when not as before."""
        later = {"head_width": 0, "qkv_bias": False, "rope_scaling": None, "moe": None}
        return {
            field.name: plain(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) != later.get(field.name, MISSING)
        }

    @property
    def head_elements(self) -> int:
        """The elements of one attention head."""
        return self.head_width or self.width // self.heads

    @property
    def query_width(self) -> int:
        """The elements of all query heads together."""
        return self.heads * self.head_elements

    @property
    def kv_width(self) -> int:
        """The elements of all key heads together, and of all value heads together."""
        return self.kv_heads * self.head_elements

    @property
    def expert_width(self) -> int:
        """The hidden elements of one expert; the feed-forward's without experts."""
        return (self.moe.expert_width if self.moe is not None else 0) or self.ffn_width

    @property
    def moe_layers(self) -> int:
        """How many blocks have experts."""
        return 0 if self.moe is None else self.layers - self.moe.dense_layers

    @property
    def attention_matrix_parameters(self) -> int:
        """The parameters of one block's attention matrices."""
        query_and_output = 2 * self.width * self.query_width  # width -> heads x head_width, and back
        key_and_value = 2 * self.width * self.kv_width  # width -> kv_heads x head_width, twice
        return query_and_output + key_and_value

    @property
    def layer_matrix_parameters(self) -> int:
        """The parameters of a dense block's matrices: those that every token is multiplied with."""
        gate_up_down = 3 * self.width * self.ffn_width  # SwiGLU: two matrices in, one out
        return self.attention_matrix_parameters + gate_up_down

    def moe_matrix_parameters(self, experts: int) -> int:
        """The parameters of a block's matrices with `experts` of its routed experts."""
        if self.moe is None:
            return self.layer_matrix_parameters
        router = self.moe.experts * self.width
        swiglu = 3 * self.width * self.expert_width * (experts + self.moe.shared_experts)
        return self.attention_matrix_parameters + router + swiglu

    def matrix_parameters(self, *, active: bool) -> int:
        """The parameters of all blocks' matrices; `active`: only of those that one token meets."""
        experts = 0 if self.moe is None else self.moe.top_k if active else self.moe.experts
        dense_layers = self.layers - self.moe_layers
        return dense_layers * self.layer_matrix_parameters + self.moe_layers * self.moe_matrix_parameters(
            experts
        )

    def parameters(self, vocabulary: int) -> int:
        """The trained parameters for a vocabulary of `vocabulary` tokens; tied embeddings count once."""
        return self.matrix_parameters(active=False) + self._other_parameters(vocabulary)

    def active_parameters(self, vocabulary: int) -> int:
        """The parameters that work on one token: of the routed experts `top_k`; all others as they are."""
        return self.matrix_parameters(active=True) + self._other_parameters(vocabulary)

    def _other_parameters(self, vocabulary: int) -> int:
        block_norms = 2 * self.width  # before attention and before the feed-forward
        query_and_key_norms = 2 * self.head_elements if self.qk_norm else 0  # one weight shared by all heads
        biases = self.query_width + 2 * self.kv_width if self.qkv_bias else 0
        last_norm = self.width
        tables = 1 if self.tied_embeddings else 2  # the embedding, and the output matrix when it is another
        vectors = self.layers * (block_norms + query_and_key_norms + biases) + last_norm
        return vectors + tables * vocabulary * self.width

    def forward_flops_per_token(
        self, vocabulary: int, sequence_tokens: int, count: AttentionCount = AttentionCount.ALL_PAIRS
    ) -> float:
        """Model FLOPs of the forward pass for each token of sequences of `sequence_tokens`.

        A multiply and an add are two FLOPs. Matrix products only: the embedding is a lookup; norms, RoPE,
        softmax, SiLU and the loss are left out, as is usual for MFU.
        """
        matrices = 2 * self.matrix_parameters(active=True)  # one multiply and add a parameter
        output = 2 * self.width * vocabulary  # logits: computed whether the matrix is tied or not
        # A token's query meets `pairs` keys. Scores: heads dot products of head_width elements, a multiply
        # and an add each, so 2 x query_width a pair; the weighted sum of values costs the same again.
        pairs = float(sequence_tokens) if count is AttentionCount.ALL_PAIRS else (sequence_tokens + 1) / 2
        attention = self.layers * 2 * 2 * self.query_width * pairs
        return matrices + output + attention

    def training_flops_per_token(
        self, vocabulary: int, sequence_tokens: int, count: AttentionCount = AttentionCount.ALL_PAIRS
    ) -> float:
        """Model FLOPs of forward and backward for each token: three times the forward pass.

        The backward pass multiplies twice for each product of the forward pass, once for the gradient of
        each factor. Recomputed activations are not counted: this is the numerator of MFU, not of HFU.
        """
        return 3 * self.forward_flops_per_token(vocabulary, sequence_tokens, count)

    def recomputed_flops_per_token(self, sequence_tokens: int) -> float:
        """FLOPs that the backward pass does a second time for each token where whole blocks are recomputed.

        Those of the blocks' forward pass, without the last product of a block with a feed-forward: nothing
        that the backward pass wants depends on its result. Added to those of training, the numerator of HFU.
        """
        last = 2 * self.width * self.ffn_width * (self.layers - self.moe_layers)
        return self.forward_flops_per_token(0, sequence_tokens) - last
