"""A decoder's sizes as Hugging Face's `config.json` and back. No torch. See docs/design/exchange.md.

Reading refuses what our model does not compute: a setting that is passed over would give other logits without
a word. Settings that change nothing in a forward pass (dropout, caches, ids of tokens) are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stoker.core.canonical import JsonValue
from stoker.spec.model import InvalidModel, ModelSpec
from stoker.spec.moe import MoeSpec, RouterScore
from stoker.spec.rope import RopeScaling, RopeScalingSpec
from stoker.train.exchange.errors import FormUnknown
from stoker.train.exchange.hugging_face import Form, form_of

_DEFAULTS: Final[Mapping[Form, Mapping[str, Any]]] = {
    Form.LLAMA: {},
    Form.QWEN2: {"num_key_value_heads": 32},
    Form.QWEN3: {"head_dim": 128, "num_key_value_heads": 32},
    Form.MIXTRAL: {
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    Form.QWEN3_MOE: {
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    Form.GLM4_MOE: {
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": True,
        "partial_rotary_factor": 0.5,
    },
}
"""What a family of transformers 5 takes for a setting that its file leaves out, where it is not `_COMMON`."""

_COMMON: Final[Mapping[str, Any]] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 1.0,
}

_MUST_BE: Final[Mapping[str, Any]] = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
    "n_group": 1,
    "topk_group": 1,
    "decoder_sparse_step": 1,
}
"""Settings that change what is computed, with the one value that our model has."""

_DECIDED_BY_FAMILY: Final = (Form.QWEN2, Form.GLM4_MOE)
"""Families where biases stand beside query, key and value alone; elsewhere they are on the output too."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a `config.json` says: the family, the model and its vocabulary in tokens."""

    form: Form
    model: ModelSpec
    vocabulary: int


def config_of(
    spec: ModelSpec, vocabulary: int, *, dtype: str, sequence_tokens: int, end_of_text: int | None = None
) -> dict[str, JsonValue]:
    """The `config.json` of the model; `dtype` is torch's name of the type of its weights.

    `sequence_tokens` is the longest sequence that it was trained on. Raises FormUnknown when no family
    computes what it does.
    """
    form = form_of(spec)
    body: dict[str, JsonValue] = {
        "architectures": [form.architecture],
        "model_type": form.value,
        "torch_dtype": dtype,
        "vocab_size": vocabulary,
        "hidden_size": spec.width,
        "intermediate_size": spec.expert_width if form is Form.MIXTRAL else spec.ffn_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_elements,
        "hidden_act": "silu",
        "max_position_embeddings": sequence_tokens,
        "rms_norm_eps": spec.norm_epsilon,
        "rope_theta": spec.rope_base,
        "rope_scaling": None if spec.rope_scaling is None else _rope_scaling(spec.rope_scaling),
        "tie_word_embeddings": spec.tied_embeddings,
        "attention_bias": spec.qkv_bias,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "use_cache": True,
    }
    return {**body, **_of_family(form, spec)}


def _of_family(form: Form, spec: ModelSpec) -> dict[str, JsonValue]:
    if spec.moe is None:
        return {"mlp_bias": False} if form is Form.LLAMA else {"use_sliding_window": False}
    moe = spec.moe
    if form is Form.MIXTRAL:
        return {
            "num_local_experts": moe.experts,
            "num_experts_per_tok": moe.top_k,
            "sliding_window": None,
            "output_router_logits": False,
        }
    common: dict[str, JsonValue] = {
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": spec.expert_width,
        "norm_topk_prob": moe.normalise_gates,
        "output_router_logits": False,
    }
    if form is Form.QWEN3_MOE:
        dense: list[JsonValue] = list(range(moe.dense_layers))
        return {
            **common,
            "num_experts": moe.experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": dense,
            "use_sliding_window": False,
        }
    return {
        **common,
        "n_routed_experts": moe.experts,
        "n_shared_experts": moe.shared_experts,
        "routed_scaling_factor": moe.gate_scale,
        "first_k_dense_replace": moe.dense_layers,
        "n_group": 1,
        "topk_group": 1,
        "use_qk_norm": spec.qk_norm,
        "partial_rotary_factor": 1.0,
        "num_nextn_predict_layers": 0,
    }


def _rope_scaling(scaling: RopeScalingSpec) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {"rope_type": scaling.kind.value, "factor": scaling.factor}
    if scaling.kind is not RopeScaling.LINEAR:
        body["original_max_position_embeddings"] = scaling.original_tokens
    if scaling.kind is RopeScaling.LLAMA3:
        body["low_freq_factor"] = scaling.low_frequency_factor
        body["high_freq_factor"] = scaling.high_frequency_factor
    if scaling.kind is RopeScaling.YARN:
        body["beta_fast"], body["beta_slow"] = scaling.beta_fast, scaling.beta_slow
        body["attention_factor"] = scaling.attention_scale
    return body


def described_by(config: Mapping[str, Any], place: str) -> Described:
    """The model that a `config.json` describes.

    Raises FormUnknown, naming `place` and the setting, when no model here computes it.
    """
    kind = config.get("model_type")
    known = {form.value: form for form in Form}
    if kind not in known:
        raise FormUnknown(
            f"{place}: model_type is {ascii(kind)[:80]}, which is no family that is known here.",
            hint=f"Known are: {', '.join(known)}.",
        )
    form = known[kind]
    settings = _Settings(config, {**_COMMON, **_DEFAULTS[form]}, place)
    for name, value in _MUST_BE.items():
        settings.must_be(name, value)
    if form is Form.MIXTRAL:
        settings.must_be("sliding_window", None)
    if form not in _DECIDED_BY_FAMILY:
        settings.must_be("attention_bias", False)
    base, scaling = settings.rope()
    width, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    head = settings.size_or_none("head_dim")
    model = ModelSpec(
        layers=settings.size("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=settings.size_or_none("num_key_value_heads") or heads,
        ffn_width=settings.size("intermediate_size"),
        rope_base=base,
        norm_epsilon=settings.number("rms_norm_eps"),
        tied_embeddings=settings.flag("tie_word_embeddings", False),
        qk_norm=_has_qk_norm(form, settings),
        head_width=0 if head is None or head * heads == width else head,
        qkv_bias=form is Form.QWEN2 or (form is Form.GLM4_MOE and settings.flag("attention_bias", False)),
        rope_scaling=scaling,
        moe=_experts_in(form, settings),
    )
    try:
        model.validate()
    except InvalidModel as error:
        raise FormUnknown(f"{place} describes a model that cannot be built: {error.message}") from error
    return Described(form, model, settings.size("vocab_size"))


def _has_qk_norm(form: Form, settings: _Settings) -> bool:
    if form is Form.GLM4_MOE:
        return settings.flag("use_qk_norm", False)
    return form in (Form.QWEN3, Form.QWEN3_MOE)


def _experts_in(form: Form, settings: _Settings) -> MoeSpec | None:
    if form is Form.MIXTRAL:
        return MoeSpec(
            experts=settings.size("num_local_experts"),
            top_k=settings.size("num_experts_per_tok"),
            expert_width=settings.size("intermediate_size"),
        )
    if form is Form.QWEN3_MOE:
        return MoeSpec(
            experts=settings.size_as("num_local_experts", "num_experts"),
            top_k=settings.size("num_experts_per_tok"),
            expert_width=settings.size("moe_intermediate_size"),
            dense_layers=settings.first_layers("mlp_only_layers"),
            normalise_gates=settings.flag("norm_topk_prob", False),
        )
    if form is Form.GLM4_MOE:
        return MoeSpec(
            experts=settings.size_as("num_local_experts", "n_routed_experts"),
            top_k=settings.size("num_experts_per_tok"),
            expert_width=settings.size("moe_intermediate_size"),
            shared_experts=settings.count("n_shared_experts", 1),
            dense_layers=settings.count("first_k_dense_replace", 1),
            score=RouterScore.SIGMOID,
            normalise_gates=settings.flag("norm_topk_prob", True),
            gate_scale=settings.number("routed_scaling_factor", 1.0),
        )
    return None


class _Settings:
    """Takes settings of a `config.json`, each of the type it must have; `defaults` are the family's."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], place: str) -> None:
        self._config = config
        self._defaults = defaults
        self._place = place

    def must_be(self, name: str, value: Any) -> None:
        found = self._config.get(name, value)
        if found != value:
            raise FormUnknown(
                f"{self._place}: {name} is {ascii(found)[:80]}; models here have {value!r} only.",
                hint="Take weights of a model without that setting.",
            )

    def count(self, name: str, default: int | None = None) -> int:
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise self._wrong(name, value, "a whole number")
        return value

    def size(self, name: str) -> int:
        value = self.count(name)
        if value == 0:
            raise self._wrong(name, value, "a number above 0")
        return value

    def size_as(self, other: str, name: str) -> int:
        """The setting `name`, which some versions of `transformers` write as `other`."""
        return self.size(other if other in self._config else name)

    def size_or_none(self, name: str) -> int | None:
        return None if self._take(name, None) is None else self.size(name)

    def number(self, name: str, default: float | None = None) -> float:
        return self._number(name, self._take(name, default))

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def first_layers(self, name: str) -> int:
        """How many layers a list names, which must be the first ones."""
        value = self._take(name, None) or []
        if value != list(range(len(value))):
            raise self._wrong(name, value, "the first layers, in order")
        return len(value)

    def rope(self) -> tuple[float, RopeScalingSpec | None]:
        """RoPE's base and scaling. Newer files keep both in `rope_parameters`, older ones apart."""
        found: dict[str, Any] = {
            "rope_theta": self._take("rope_theta", None),
            "partial_rotary_factor": self._take("partial_rotary_factor", None),
        }
        for name in ("rope_scaling", "rope_parameters"):
            value = self._config.get(name)
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise self._wrong(name, value, "an object")
            found |= value
        if found.pop("partial_rotary_factor") != 1.0:
            raise FormUnknown(f"{self._place}: RoPE turns a part of each head; here it turns all of it.")
        kind = found.pop("rope_type", found.pop("type", "default"))
        base = self._number("rope_theta", found.pop("rope_theta"))
        if kind == "default":
            return base, None
        return base, self._scaling(kind, found)

    def _scaling(self, kind: Any, found: dict[str, Any]) -> RopeScalingSpec:
        fields = {
            "linear": {"factor": "factor"},
            "llama3": {
                "factor": "factor",
                "original_max_position_embeddings": "original_tokens",
                "low_freq_factor": "low_frequency_factor",
                "high_freq_factor": "high_frequency_factor",
            },
            "yarn": {
                "factor": "factor",
                "original_max_position_embeddings": "original_tokens",
                "beta_fast": "beta_fast",
                "beta_slow": "beta_slow",
                "attention_factor": "attention_factor",
            },
        }.get(kind if isinstance(kind, str) else "")
        if fields is None:
            raise self._wrong("rope_type", kind, "default, linear, llama3 or yarn")
        if "original_tokens" in fields.values():
            found.setdefault("original_max_position_embeddings", self._take("max_position_embeddings", None))
        given = {name: value for name, value in found.items() if value is not None}
        odd = sorted(set(given) - set(fields) - {"original_max_position_embeddings"})
        if odd:
            raise FormUnknown(f"{self._place}: RoPE's {odd[0][:40]!a} of kind {kind} is not known here.")
        values = {ours: self._number(name, given[name]) for name, ours in fields.items() if name in given}
        if "original_tokens" in values:
            values["original_tokens"] = int(values["original_tokens"])
        return RopeScalingSpec(kind=RopeScaling(kind), **values)  # type: ignore[arg-type]

    def _take(self, name: str, default: Any) -> Any:
        return self._config.get(name, self._defaults.get(name, default))

    def _number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, "a number")
        return float(value)

    def _wrong(self, name: str, value: Any, expected: str) -> FormUnknown:
        return FormUnknown(f"{self._place}: {name} is {ascii(value)[:80]}, expected {expected}.")
