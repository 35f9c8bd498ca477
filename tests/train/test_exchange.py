"""Weights into and out of Hugging Face's form, judged by the logits of `transformers` on random models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from stoker.spec.model import ModelSpec
from stoker.train.exchange.configuration import config_of, described_by
from stoker.train.exchange.contents import CONFIG
from stoker.train.exchange.errors import FormUnknown
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.hugging_face import foreign_tensors, form_of, unsaid_tensors
from stoker.train.exchange.read import load_weights
from stoker.train.exchange.same_model import differences
from stoker.train.exchange.sources import StateSource
from stoker.train.exchange.write import write_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from support.foreign_models import (
    DENSE,
    EXPERTS,
    LLAMA,
    MODELS,
    VOCABULARY,
    load_into_new,
    logits_of,
    random_model,
    save,
    tokens,
)


def judged(folder: Path) -> Tensor:
    """The logits of `transformers`, which must find every tensor and no other."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    with torch.no_grad():
        found: Tensor = model.eval()(tokens()).logits
    return found


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_what_we_compute_from_what_we_write(name: str, tmp_path: Path) -> None:
    spec = MODELS[name]
    model = random_model(spec)
    ours, theirs = logits_of(model), judged(save(model, spec, tmp_path / "there"))
    assert torch.allclose(ours, theirs, atol=2e-5 * float(ours.abs().max()), rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_we_compute_what_transformers_computes_from_what_it_writes(name: str, tmp_path: Path) -> None:
    spec = MODELS[name]
    first = save(random_model(spec), spec, tmp_path / "first")
    there = transformers.AutoModelForCausalLM.from_pretrained(first)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in there.state_dict().values():
            value.mul_(torch.empty(value.shape).uniform_(0.5, 1.5, generator=generator))
        theirs = there.eval()(tokens()).logits
    there.save_pretrained(tmp_path / "second")
    described = described_by(json.loads((tmp_path / "second" / CONFIG).read_text()), "config.json")
    assert described.vocabulary == VOCABULARY
    assert differences(described.model, spec) == []
    ours = logits_of(load_into_new(described.model, tmp_path / "second"))
    assert torch.allclose(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3-tied-wide-heads", "glm4-moe"])
def test_what_goes_out_and_in_again_is_the_same_bit_by_bit_in_one_file_or_many(
    name: str, tmp_path: Path
) -> None:
    spec = MODELS[name]
    model = random_model(spec)
    one = save(model, spec, tmp_path / "one")
    many = save(model, spec, tmp_path / "many", file_bytes=10_000)
    assert len(list(one.glob("*.safetensors"))) == 1
    assert len(list(many.glob("*.safetensors"))) > 3
    for folder in (one, many):
        again = load_into_new(spec, folder).state_dict()
        for key, value in model.state_dict().items():
            assert torch.equal(again[key], value), key
    assert torch.equal(judged(one), judged(many))


def test_files_are_aligned_and_hold_what_the_facts_say(tmp_path: Path) -> None:
    spec = MODELS["glm4-moe"]
    facts = write_weights(
        tmp_path, spec, VOCABULARY, StateSource(random_model(spec).state_dict()), dtype=torch.bfloat16
    )
    (written,) = facts
    data = (tmp_path / written.name).read_bytes()
    assert (written.bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (tmp_path / written.name).stat().st_mode & 0o777 == 0o600
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt"}
    kinds = {name: each["dtype"] for name, each in header.items()}
    assert {name for name, kind in kinds.items() if kind != "BF16"} == {
        "model.layers.1.mlp.gate.e_score_correction_bias"
    }
    assert all(
        each["data_offsets"][0] % (4 if each["dtype"] == "F32" else 2) == 0 for each in header.values()
    )


def test_bf16_weights_are_the_nearest_ones(tmp_path: Path) -> None:
    model = random_model(LLAMA)
    folder = save(model, LLAMA, tmp_path / "there", dtype=torch.bfloat16)
    again = load_into_new(LLAMA, folder).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(again[name], value.bfloat16().float()), name
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    assert transformers.AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_every_tensor_of_every_model_has_its_place() -> None:
    for spec in MODELS.values():
        ours: dict[str, list[tuple[int, ...]]] = {}
        for tensor in foreign_tensors(spec, VOCABULARY):
            ours.setdefault(tensor.ours, []).append(tensor.shape)
        state = build_model(spec, VOCABULARY).state_dict()
        assert set(ours) | set(unsaid_tensors(spec)) == set(state)
        for name, shapes in ours.items():
            whole = shapes[0] if state[name].dim() == len(shapes[0]) else (len(shapes), *shapes[0])
            assert tuple(state[name].shape) == whole, name


def test_a_config_comes_back_as_the_model_that_it_was_made_from() -> None:
    for spec in MODELS.values():
        config = config_of(spec, VOCABULARY, dtype="bfloat16", sequence_tokens=64, end_of_text=0)
        described = described_by(json.loads(json.dumps(config)), "config.json")
        assert (differences(described.model, spec), described.vocabulary) == ([], VOCABULARY)
        assert described.form is form_of(spec)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (replace(DENSE, qkv_bias=True), "qkv_bias"),
        (replace(LLAMA, moe=replace(EXPERTS, shared_experts=1)), "moe.shared_experts"),
        (replace(LLAMA, moe=replace(EXPERTS, gate_scale=2.0)), "moe.gate_scale"),
        (replace(LLAMA, moe=replace(EXPERTS, dense_layers=1)), "moe.dense_layers"),
        (replace(LLAMA, moe=replace(EXPERTS, normalise_gates=False)), "moe.normalise_gates"),
        (replace(LLAMA, qkv_bias=True, moe=EXPERTS), "qkv_bias"),
    ],
)
def test_a_model_that_no_family_computes_is_refused_by_the_setting(spec: ModelSpec, named: str) -> None:
    with pytest.raises(FormUnknown, match=named):
        form_of(spec)


def test_experts_whose_router_prefers_some_are_refused_where_the_form_cannot_say_so(tmp_path: Path) -> None:
    spec = MODELS["mixtral"]
    state = random_model(spec).state_dict()
    state["blocks.1.feed_forward.router.selection_bias"][2] = 0.001
    with pytest.raises(FormUnknown, match=r"blocks\.1\.feed_forward\.router\.selection_bias"):
        write_weights(tmp_path, spec, VOCABULARY, StateSource(state))
    assert list(tmp_path.iterdir()) == []


def test_a_preference_of_before_does_not_outlive_weights_that_say_none(tmp_path: Path) -> None:
    spec = MODELS["mixtral"]
    folder = save(random_model(spec), spec, tmp_path / "there")
    model = materialise(build_model(spec, VOCABULARY), 99, torch.device("cpu"))
    name = "blocks.0.feed_forward.router.selection_bias"
    model.state_dict()[name].fill_(3.0)
    with WeightFolder.open(folder) as opened:
        load_weights(model, spec, VOCABULARY, opened)
    assert not model.state_dict()[name].any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type"),
        ({"rope_scaling": {"type": "llama3", "factor": 4.0, "mscale": 1.0}}, "mscale"),
        ({"rope_scaling": 4.0}, "rope_scaling"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "part of each head"),
        ({"head_dim": 7}, "head_width"),
        ({"num_key_value_heads": 3}, "kv_heads"),
    ],
)
def test_a_config_that_says_what_no_model_here_is_is_refused_by_its_setting(
    change: dict[str, Any], named: str
) -> None:
    config = {**config_of(LLAMA, VOCABULARY, dtype="float32", sequence_tokens=64), **change}
    with pytest.raises(FormUnknown, match=named):
        described_by(config, "config.json")
