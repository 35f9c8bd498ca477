"""What a decoder's tensors are called and how large they are in Hugging Face's form. No torch.

Both forms keep a matrix as `[outputs, inputs]` and turn the first half of a head against the second, so a
tensor of one is a tensor of the other, byte for byte; only stacked experts are apart there. See
docs/design/exchange.md, "Names".
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec, RouterScore
from stoker.train.exchange.errors import FormUnknown


class Form(enum.StrEnum):
    """A model family of `transformers`, by its `model_type`."""

    LLAMA = "llama"
    QWEN2 = "qwen2"
    QWEN3 = "qwen3"
    MIXTRAL = "mixtral"
    QWEN3_MOE = "qwen3_moe"
    GLM4_MOE = "glm4_moe"

    @property
    def architecture(self) -> str:
        """The class that `transformers` loads it with."""
        return _ARCHITECTURES[self]


_ARCHITECTURES: Final = {
    Form.LLAMA: "LlamaForCausalLM",
    Form.QWEN2: "Qwen2ForCausalLM",
    Form.QWEN3: "Qwen3ForCausalLM",
    Form.MIXTRAL: "MixtralForCausalLM",
    Form.QWEN3_MOE: "Qwen3MoeForCausalLM",
    Form.GLM4_MOE: "Glm4MoeForCausalLM",
}


@dataclass(frozen=True, slots=True)
class ForeignTensor:
    """One tensor of a Hugging Face checkpoint and where it is in ours.

    `ours` is the name in our model. `expert` is its index in our tensor's first dimension; None when it is
    our whole tensor. `whole_precision`: fp32 in every checkpoint, whatever type the others have.
    """

    name: str
    shape: tuple[int, ...]
    ours: str
    expert: int | None = None
    whole_precision: bool = False


def form_of(spec: ModelSpec) -> Form:
    """The family that computes what `spec` does. Raises FormUnknown, saying why, when there is none."""
    if spec.moe is not None:
        return _form_with_experts(spec, spec.moe)
    if not spec.qkv_bias:
        return Form.QWEN3 if spec.qk_norm else Form.LLAMA
    if spec.qk_norm:
        raise FormUnknown(
            "No Hugging Face family of dense decoders has both qk_norm and qkv_bias as this model has them.",
            hint="Add --format stoker, or train without one of the two.",
        )
    return Form.QWEN2


def _form_with_experts(spec: ModelSpec, moe: MoeSpec) -> Form:
    if moe.score is RouterScore.SIGMOID:
        return Form.GLM4_MOE
    problems = {
        "qkv_bias": spec.qkv_bias,
        "moe.shared_experts": moe.shared_experts > 0,
        "moe.gate_scale": moe.gate_scale != 1.0,
        "moe.dense_layers without qk_norm": moe.dense_layers > 0 and not spec.qk_norm,
        "moe.normalise_gates false without qk_norm": not moe.normalise_gates and not spec.qk_norm,
    }
    wrong = [name for name, is_there in problems.items() if is_there]
    if wrong:
        raise FormUnknown(
            f"No Hugging Face family with a softmax router has {', '.join(wrong)} as this model has.",
            hint='Add --format stoker, or train with moe.score = "sigmoid" (glm4_moe).',
        )
    return Form.QWEN3_MOE if spec.qk_norm else Form.MIXTRAL


def unsaid_tensors(spec: ModelSpec) -> tuple[str, ...]:
    """Our tensors that the form has no place for: right only while every value in them is zero."""
    if form_of(spec) not in (Form.MIXTRAL, Form.QWEN3_MOE):
        return ()
    return tuple(f"blocks.{layer}.feed_forward.router.selection_bias" for layer in _with_experts(spec))


def foreign_tensors(spec: ModelSpec, vocabulary: int) -> Iterator[ForeignTensor]:
    """Every tensor of the model in Hugging Face's form, in the order in which a forward pass meets them."""
    form, width = form_of(spec), spec.width
    with_experts = _with_experts(spec)
    yield ForeignTensor("model.embed_tokens.weight", (vocabulary, width), "embedding.weight")
    for layer in range(spec.layers):
        yield from _attention(spec, layer)
        if layer not in with_experts:
            yield from _feed_forward(f"model.layers.{layer}.mlp", f"blocks.{layer}.feed_forward", spec)
        elif form is Form.MIXTRAL:
            yield from _mixtral(spec, layer)
        else:
            yield from _experts(spec, layer, form)
    yield ForeignTensor("model.norm.weight", (width,), "norm.weight")
    if not spec.tied_embeddings:
        yield ForeignTensor("lm_head.weight", (vocabulary, width), "head.weight")


def _with_experts(spec: ModelSpec) -> range:
    return range(spec.layers - spec.moe_layers, spec.layers)


def _attention(spec: ModelSpec, layer: int) -> Iterator[ForeignTensor]:
    there, here = f"model.layers.{layer}", f"blocks.{layer}"
    width, head = spec.width, spec.head_elements
    yield ForeignTensor(f"{there}.input_layernorm.weight", (width,), f"{here}.attention_norm.weight")
    parts = (("q", "query", spec.query_width), ("k", "key", spec.kv_width), ("v", "value", spec.kv_width))
    for letter, ours, outputs in parts:
        name, here_name = f"{there}.self_attn.{letter}_proj", f"{here}.attention.{ours}"
        yield ForeignTensor(f"{name}.weight", (outputs, width), f"{here_name}.weight")
        if spec.qkv_bias:
            yield ForeignTensor(f"{name}.bias", (outputs,), f"{here_name}.bias")
    yield ForeignTensor(
        f"{there}.self_attn.o_proj.weight", (width, spec.query_width), f"{here}.attention.output.weight"
    )
    if spec.qk_norm:
        for letter, ours in (("q", "query"), ("k", "key")):
            yield ForeignTensor(
                f"{there}.self_attn.{letter}_norm.weight", (head,), f"{here}.attention.{ours}_norm.weight"
            )
    yield ForeignTensor(
        f"{there}.post_attention_layernorm.weight", (width,), f"{here}.feed_forward_norm.weight"
    )


def _feed_forward(
    there: str, here: str, spec: ModelSpec, hidden_width: int | None = None
) -> Iterator[ForeignTensor]:
    width, hidden = spec.width, spec.ffn_width if hidden_width is None else hidden_width
    yield ForeignTensor(f"{there}.gate_proj.weight", (hidden, width), f"{here}.gate.weight")
    yield ForeignTensor(f"{there}.up_proj.weight", (hidden, width), f"{here}.up.weight")
    yield ForeignTensor(f"{there}.down_proj.weight", (width, hidden), f"{here}.down.weight")


def _mixtral(spec: ModelSpec, layer: int) -> Iterator[ForeignTensor]:
    assert spec.moe is not None
    there, here = f"model.layers.{layer}.block_sparse_moe", f"blocks.{layer}.feed_forward"
    yield ForeignTensor(f"{there}.gate.weight", (spec.moe.experts, spec.width), f"{here}.router.weight")
    yield from _each_expert(spec, f"{there}.experts", here, ("w1", "w3", "w2"))


def _experts(spec: ModelSpec, layer: int, form: Form) -> Iterator[ForeignTensor]:
    assert spec.moe is not None
    there, here = f"model.layers.{layer}.mlp", f"blocks.{layer}.feed_forward"
    experts = spec.moe.experts
    yield ForeignTensor(f"{there}.gate.weight", (experts, spec.width), f"{here}.router.weight")
    if form is Form.GLM4_MOE:
        yield ForeignTensor(
            f"{there}.gate.e_score_correction_bias",
            (experts,),
            f"{here}.router.selection_bias",
            whole_precision=True,
        )
    yield from _each_expert(spec, f"{there}.experts", here, ("gate_proj", "up_proj", "down_proj"))
    if spec.moe.shared_experts:
        shared = spec.moe.shared_experts * spec.expert_width
        yield from _feed_forward(f"{there}.shared_experts", f"{here}.shared", spec, shared)


def _each_expert(
    spec: ModelSpec, there: str, here: str, names: tuple[str, str, str]
) -> Iterator[ForeignTensor]:
    """`names` are those of gate, up and down."""
    assert spec.moe is not None
    width, hidden = spec.width, spec.expert_width
    shapes = ((hidden, width), (hidden, width), (width, hidden))
    for expert in range(spec.moe.experts):
        for name, ours, shape in zip(names, ("gate", "up", "down"), shapes, strict=True):
            yield ForeignTensor(f"{there}.{expert}.{name}.weight", shape, f"{here}.experts.{ours}", expert)
