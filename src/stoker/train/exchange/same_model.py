"""Whether two specifications are of models that compute the same from the same tensors. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stoker.spec.model import ModelSpec
from stoker.train.exchange.configuration import Described
from stoker.train.exchange.errors import WeightsUnfit

_SHOWN: Final = 5


def require_same_model(described: Described, spec: ModelSpec, vocabulary: int) -> None:
    """Raise WeightsUnfit, naming every setting that differs, unless the weights are of this very model."""
    found = differences(described.model, spec)
    if described.vocabulary != vocabulary:
        found.append(f"vocabulary is {described.vocabulary} there and {vocabulary} here")
    if found:
        raise WeightsUnfit(
            f"The weights are of another model: {'; '.join(found[:_SHOWN])}.",
            hint="Set these under [model] as the weights have them; the vocabulary is the dataset's.",
        )


def differences(there: ModelSpec, here: ModelSpec) -> list[str]:
    """Each setting that is another in weights from elsewhere, and what it is on either side.

    What only training looks at is left out: how experts are balanced and how many tokens one may take.
    """
    left, right = _computing(there), _computing(here)
    found: list[str] = []
    for name in ModelSpec.__dataclass_fields__:
        a, b = getattr(left, name), getattr(right, name)
        if a == b:
            continue
        if a is None or b is None or not hasattr(a, "__dataclass_fields__"):
            found.append(f"{name} is {a} there and {b} here")
            continue
        found += [
            f"{name}.{inner} is {getattr(a, inner)} there and {getattr(b, inner)} here"
            for inner in a.__dataclass_fields__
            if getattr(a, inner) != getattr(b, inner)
        ]
    return found


def _computing(spec: ModelSpec) -> ModelSpec:
    """The specification with every default said and everything left out that changes no logit."""
    moe, scaling = spec.moe, spec.rope_scaling
    if moe is not None:
        moe = replace(moe, expert_width=spec.expert_width, balance_rate=0.0, z_loss=0.0, capacity_factor=0.0)
    if scaling is not None:
        plain = type(scaling)(kind=scaling.kind)
        kept = {
            "linear": ("factor",),
            "llama3": ("factor", "original_tokens", "low_frequency_factor", "high_frequency_factor"),
            "yarn": ("factor", "original_tokens", "beta_fast", "beta_slow"),
        }[scaling.kind.value]
        scaling = replace(
            plain,
            **{name: getattr(scaling, name) for name in kept},
            attention_factor=scaling.attention_scale if scaling.kind.value == "yarn" else 0.0,
        )
    every = moe is not None and moe.dense_layers == 0
    return replace(
        spec,
        head_width=spec.head_elements,
        ffn_width=0 if every else spec.ffn_width,
        moe=moe,
        rope_scaling=scaling,
    )
