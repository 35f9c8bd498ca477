"""Models of every size by name, from a million parameters to two trillion. See docs/design/spec.md.

A configuration is a shape and a vocabulary. The names of our own say their trained parameters, and after an
`a` those that work on one token; those that carry a published model's name have its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from stoker.core.errors import StokerError
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ImageTowerSpec, ModerationSpec, TextTowerSpec
from stoker.spec.moe import MoeSpec, RouterScore
from stoker.spec.rope import RopeScaling, RopeScalingSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionObjective, VisionSpec

AnySpec: TypeAlias = ModelSpec | VisionSpec | SpeechSpec | ModerationSpec


class UnknownConfiguration(StokerError):
    """A name that no configuration has."""

    exit_code = 104


@dataclass(frozen=True, slots=True)
class Configuration:
    """A model by name. `vocabulary` is 0 for families without tokens; `parameters` are by its formula."""

    name: str
    spec: AnySpec
    vocabulary: int = 0

    @property
    def parameters(self) -> int:
        """The trained parameters."""
        if isinstance(self.spec, ModelSpec | ModerationSpec):
            return self.spec.parameters(self.vocabulary)
        return self.spec.parameters()

    @property
    def active_parameters(self) -> int:
        """Those that work on one token; all but for mixtures of experts."""
        if isinstance(self.spec, ModelSpec):
            return self.spec.active_parameters(self.vocabulary)
        return self.parameters


def configuration(name: str) -> Configuration:
    """The configuration of that name. Raises UnknownConfiguration, naming those that there are."""
    found = CONFIGURATIONS.get(name)
    if found is None:
        raise UnknownConfiguration(
            f"There is no configuration {name!r}.", hint=f"There are {', '.join(CONFIGURATIONS)}."
        )
    return found


def _dense(
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    ffn_width: int,
    *,
    rope_base: float = 500_000.0,
    tied: bool = False,
    qk_norm: bool = True,
    head_width: int = 0,
) -> ModelSpec:
    return ModelSpec(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ffn_width=ffn_width,
        rope_base=rope_base,
        tied_embeddings=tied,
        qk_norm=qk_norm,
        head_width=head_width,
    )


def _llama3(
    layers: int, width: int, heads: int, ffn_width: int, *, factor: float = 8.0, tied: bool = False
) -> ModelSpec:
    scaling = RopeScalingSpec(kind=RopeScaling.LLAMA3, factor=factor, original_tokens=8192)
    plain = _dense(layers, width, heads, 8, ffn_width, tied=tied, qk_norm=False)
    return replace(plain, rope_scaling=scaling, norm_epsilon=1e-5)


def _qwen3(
    layers: int, width: int, heads: int, ffn_width: int, *, kv_heads: int = 8, tied: bool = False
) -> ModelSpec:
    return _dense(layers, width, heads, kv_heads, ffn_width, rope_base=1_000_000.0, tied=tied, head_width=128)


def _experts(experts: int, top_k: int, expert_width: int, *, dense: int, shared: int = 1) -> MoeSpec:
    """Balanced by a bias and scored by a sigmoid, as DeepSeek-V3's."""
    return MoeSpec(
        experts=experts,
        top_k=top_k,
        expert_width=expert_width,
        shared_experts=shared,
        dense_layers=dense,
        score=RouterScore.SIGMOID,
        gate_scale=2.5,
    )


_LLAMA2 = 32_000
_LLAMA3 = 128_256
_QWEN3 = 151_936
_OWN = 131_072
_SMALL = 4_096

CONFIGURATIONS: Final[Mapping[str, Configuration]] = {
    each.name: each
    for each in (
        # Dense decoders of our own: QK-norm, heads of 64 or 128, 8 key heads from a billion on.
        Configuration("dense-1m", _dense(4, 128, 2, 1, 384, rope_base=10_000.0, tied=True), 2048),
        Configuration("dense-11m", _dense(8, 320, 5, 5, 832, rope_base=10_000.0, tied=True), _SMALL),
        Configuration("dense-30m", _dense(12, 448, 7, 7, 1216, rope_base=10_000.0, tied=True), _SMALL),
        Configuration("dense-125m", _dense(12, 768, 12, 4, 2048, tied=True), 65_536),
        Configuration("dense-330m", _dense(24, 1024, 16, 8, 2560, tied=True), 65_536),
        Configuration("dense-1.5b", _dense(16, 2048, 32, 8, 8192), _LLAMA3),
        Configuration("dense-3.6b", _dense(28, 3072, 24, 8, 8192), _OWN),
        Configuration("dense-8b", _dense(32, 4096, 32, 8, 14336), _OWN),
        Configuration("dense-32b", _dense(64, 5120, 40, 8, 27648), _OWN),
        Configuration("dense-70b", _dense(80, 8192, 64, 8, 28672), _OWN),
        Configuration("dense-160b", _dense(96, 12288, 96, 8, 35840), _OWN),
        Configuration("dense-405b", _dense(126, 16384, 128, 8, 53248), _OWN),
        Configuration("dense-1t", _dense(128, 25600, 200, 8, 84480), _OWN),
        # Mixtures of experts of our own: one shared expert, first blocks dense.
        Configuration(
            "moe-12m-a4m",
            replace(
                _dense(6, 192, 3, 3, 768, rope_base=10_000.0, tied=True), moe=_experts(16, 2, 192, dense=1)
            ),
            _SMALL,
        ),
        Configuration(
            "moe-2.3b-a1.1b", replace(_dense(16, 2048, 32, 8, 8192), moe=MoeSpec(expert_width=2048)), _LLAMA3
        ),
        Configuration(
            "moe-30b-a3b", replace(_dense(48, 2048, 32, 4, 8192), moe=_experts(128, 8, 768, dense=1)), _OWN
        ),
        Configuration(
            "moe-235b-a24b",
            replace(_dense(94, 4096, 64, 4, 12288, head_width=128), moe=_experts(128, 8, 1536, dense=1)),
            _OWN,
        ),
        Configuration(
            "moe-675b-a41b",
            replace(_dense(61, 7168, 128, 8, 18432, head_width=128), moe=_experts(256, 8, 2048, dense=3)),
            _OWN,
        ),
        Configuration(
            "moe-2t-a70b",
            replace(_dense(88, 8192, 96, 8, 24576, head_width=128), moe=_experts(384, 8, 2560, dense=3)),
            _OWN,
        ),
        # Published shapes.
        Configuration(
            "tinyllama-1.1b", _dense(22, 2048, 32, 4, 5632, rope_base=10_000.0, qk_norm=False), _LLAMA2
        ),
        Configuration(
            "llama-2-7b", _dense(32, 4096, 32, 32, 11008, rope_base=10_000.0, qk_norm=False), _LLAMA2
        ),
        Configuration("llama-3.2-1b", _llama3(16, 2048, 32, 8192, factor=32.0, tied=True), _LLAMA3),
        Configuration("llama-3.2-3b", _llama3(28, 3072, 24, 8192, factor=32.0, tied=True), _LLAMA3),
        Configuration("llama-3.1-8b", _llama3(32, 4096, 32, 14336), _LLAMA3),
        Configuration("llama-3.1-70b", _llama3(80, 8192, 64, 28672), _LLAMA3),
        Configuration("llama-3.1-405b", _llama3(126, 16384, 128, 53248), _LLAMA3),
        Configuration("qwen3-0.6b", _qwen3(28, 1024, 16, 3072, tied=True), _QWEN3),
        Configuration("qwen3-4b", _qwen3(36, 2560, 32, 9728, tied=True), _QWEN3),
        Configuration("qwen3-8b", _qwen3(36, 4096, 32, 12288), _QWEN3),
        Configuration("qwen3-32b", _qwen3(64, 5120, 64, 25600), _QWEN3),
        Configuration(
            "qwen3-30b-a3b",
            replace(
                _qwen3(48, 2048, 32, 6144, kv_heads=4),
                moe=MoeSpec(experts=128, top_k=8, expert_width=768, balance_rate=0.0),
            ),
            _QWEN3,
        ),
        Configuration(
            "qwen3-235b-a22b",
            replace(
                _qwen3(94, 4096, 64, 12288, kv_heads=4),
                moe=MoeSpec(experts=128, top_k=8, expert_width=1536, balance_rate=0.0),
            ),
            _QWEN3,
        ),
        Configuration(
            "mixtral-8x7b",
            replace(
                _dense(32, 4096, 32, 8, 14336, rope_base=1_000_000.0, qk_norm=False),
                moe=MoeSpec(balance_rate=0.0),
                norm_epsilon=1e-5,
            ),
            _LLAMA2,
        ),
        Configuration(
            "mixtral-8x22b",
            replace(
                _dense(56, 6144, 48, 8, 16384, rope_base=1_000_000.0, qk_norm=False),
                moe=MoeSpec(balance_rate=0.0),
                norm_epsilon=1e-5,
            ),
            _LLAMA2,
        ),
        # Vision.
        Configuration("vit-digits", VisionSpec()),
        Configuration("vit-s-16", VisionSpec(224, 3, 16, 12, 384, 6, 1536, 1000)),
        Configuration("vit-b-16", VisionSpec(224, 3, 16, 12, 768, 12, 3072, 1000)),
        Configuration("vit-l-16", VisionSpec(224, 3, 16, 24, 1024, 16, 4096, 1000)),
        Configuration("vit-h-14", VisionSpec(224, 3, 14, 32, 1280, 16, 5120, 1000)),
        Configuration("vit-2b-14", VisionSpec(224, 3, 14, 48, 1664, 16, 8192, 1000)),
        Configuration(
            "mae-b-16",
            VisionSpec(
                224,
                3,
                16,
                12,
                768,
                12,
                3072,
                objective=VisionObjective.MASKED,
                decoder_layers=8,
                decoder_width=512,
                decoder_heads=16,
            ),
        ),
        # Speech: small, medium and large are the encoders of Gulati et al. 2020.
        Configuration(
            "conformer-commands", SpeechSpec(layers=4, width=96, heads=4, ffn_width=384, kernel=15)
        ),
        Configuration("conformer-s", SpeechSpec(layers=16, width=144, heads=4, ffn_width=576)),
        Configuration("conformer-m", SpeechSpec(layers=16, width=256, heads=4, ffn_width=1024)),
        Configuration("conformer-l", SpeechSpec(layers=17, width=512, heads=8, ffn_width=2048)),
        # Moderation.
        Configuration("moderation-text", ModerationSpec(text=TextTowerSpec()), 16_384),
        Configuration("moderation-image", ModerationSpec(image=ImageTowerSpec())),
        Configuration(
            "moderation-both",
            ModerationSpec(text=TextTowerSpec(), image=ImageTowerSpec(), joint_width=128),
            16_384,
        ),
        Configuration(
            "moderation-text-large",
            ModerationSpec(
                text=TextTowerSpec(layers=12, width=768, heads=12, ffn_width=3072, sequence_tokens=512)
            ),
            65_536,
        ),
    )
}
"""Every configuration by its name."""
