"""Small decoders of every form that is exchanged, with random weights, and folders of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from stoker.spec.model import ModelSpec
from stoker.spec.moe import MoeSpec, RouterScore
from stoker.spec.rope import RopeScaling, RopeScalingSpec
from stoker.train.exchange.configuration import config_of
from stoker.train.exchange.contents import CONFIG
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.hugging_face import unsaid_tensors
from stoker.train.exchange.read import load_weights
from stoker.train.exchange.sources import StateSource
from stoker.train.exchange.write import write_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise

VOCABULARY: Final = 61
DENSE: Final = ModelSpec(layers=2, width=32, heads=4, kv_heads=2, ffn_width=48)
LLAMA: Final = replace(DENSE, qk_norm=False, tied_embeddings=False, rope_base=5_000.0, norm_epsilon=1e-5)
EXPERTS: Final = MoeSpec(experts=4, top_k=2, expert_width=24, balance_rate=0.0)
SIGMOID: Final = MoeSpec(
    experts=4,
    top_k=2,
    expert_width=24,
    shared_experts=2,
    dense_layers=1,
    score=RouterScore.SIGMOID,
    gate_scale=2.5,
)

MODELS: Final = {
    "llama": LLAMA,
    "llama-tied": replace(LLAMA, tied_embeddings=True),
    "llama-wide-heads": replace(LLAMA, head_width=16),
    "llama3-rope": replace(LLAMA, rope_scaling=RopeScalingSpec(factor=4.0, original_tokens=8)),
    "linear-rope": replace(LLAMA, rope_scaling=RopeScalingSpec(kind=RopeScaling.LINEAR, factor=4.0)),
    "yarn-rope": replace(
        DENSE, rope_scaling=RopeScalingSpec(kind=RopeScaling.YARN, factor=4.0, original_tokens=16)
    ),
    "qwen2": replace(LLAMA, qkv_bias=True),
    "qwen3": replace(DENSE, tied_embeddings=False),
    "qwen3-tied-wide-heads": replace(DENSE, head_width=12),
    "mixtral": replace(LLAMA, moe=EXPERTS),
    "qwen3-moe": replace(DENSE, moe=replace(EXPERTS, dense_layers=1, normalise_gates=False)),
    "glm4-moe": replace(DENSE, moe=SIGMOID),
    "glm4-moe-biased": replace(LLAMA, qkv_bias=True, moe=replace(SIGMOID, normalise_gates=False)),
}


def random_model(spec: ModelSpec, seed: int = 1) -> nn.Module:
    """A model whose every tensor, norms, biases and the router's bias among them, is random."""
    model = materialise(build_model(spec, VOCABULARY), seed, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    silent = set(unsaid_tensors(spec))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name not in silent:
                noise = torch.empty(value.shape).uniform_(-0.3, 0.3, generator=generator)
                value.copy_(noise + 1.0 if value.dim() == 1 and "norm" in name else noise)
    return model


def save(model: nn.Module, spec: ModelSpec, folder: Path, **more: Any) -> Path:
    """The model as a folder in Hugging Face's form."""
    folder.mkdir()
    write_weights(folder, spec, VOCABULARY, StateSource(model.state_dict()), **more)
    config = config_of(spec, VOCABULARY, dtype="float32", sequence_tokens=64)
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def load_into_new(spec: ModelSpec, folder: Path) -> nn.Module:
    """A model of other first weights that was filled from the folder."""
    model = materialise(build_model(spec, VOCABULARY), 99, torch.device("cpu"))
    with WeightFolder.open(folder) as opened:
        load_weights(model, spec, VOCABULARY, opened)
    return model


def tokens() -> Tensor:
    """Some tokens, int64 [3, 40]."""
    return torch.randint(VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(7))


def logits_of(model: nn.Module) -> Tensor:
    """What the model makes of them."""
    with torch.no_grad():
        found: Tensor = model(tokens())
    return found
