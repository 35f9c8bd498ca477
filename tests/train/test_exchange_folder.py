"""Folders of foreign weights that are wrong in every way: each is refused by name, and nothing is changed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stoker.train.exchange.contents import INDEX, ONE_FILE, folder_digest
from stoker.train.exchange.errors import BadWeights, WeightsUnfit
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.read import load_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from support.foreign_models import DENSE, LLAMA, MODELS, VOCABULARY, load_into_new, random_model, save

GATE = "model.layers.1.mlp.gate_proj.weight"
Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good folder of a Llama, in one file."""
    return save(random_model(LLAMA), LLAMA, tmp_path / "there")


def rewrite(folder: Path, change: Change) -> None:
    tensors = load_file(folder / ONE_FILE)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / ONE_FILE)


def change_config(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def refused(folder: Path) -> str:
    """What is said about the folder; the model is as it was before."""
    model = materialise(build_model(LLAMA, VOCABULARY), 3, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsUnfit) as raised, WeightFolder.open(folder) as opened:
        load_weights(model, LLAMA, VOCABULARY, opened)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return raised.value.message


def replaced(name: str, value: Callable[[Tensor], Tensor]) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = value(tensors[name])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(GATE), f"'{GATE}' is missing"),
        (lambda tensors: tensors.pop("lm_head.weight"), "'lm_head.weight' is missing"),
        (
            lambda tensors: tensors.update({"model.layers.2.mlp.gate_proj.weight": torch.zeros(48, 32)}),
            "'model.layers.2.mlp.gate_proj.weight' is extra",
        ),
        (
            lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}),
            "'model.layers.0.self_attn.q_proj.bias' is extra",
        ),
        (
            replaced(GATE, lambda value: value.T),
            f"'{GATE}' is transposed: [32, 48], where [48, 32] is expected",
        ),
        (
            replaced(GATE, lambda value: value[:-1]),
            f"'{GATE}' is of another shape: [47, 32], where [48, 32] is expected",
        ),
        (
            replaced("model.norm.weight", lambda value: value[None]),
            "'model.norm.weight' is of another shape: [1, 32], where [32] is expected",
        ),
        (
            replaced("model.embed_tokens.weight", lambda value: torch.cat([value, value[:3]])),
            "'model.embed_tokens.weight' is of another shape: [64, 32]",
        ),
        (replaced(GATE, lambda value: value.to(torch.int32)), f"'{GATE}' is of type I32"),
        (replaced(GATE, lambda value: value.to(torch.float8_e4m3fn)), f"'{GATE}' is of type F8_E4M3"),
    ],
)
def test_a_tensor_that_does_not_belong_is_named(folder: Path, change: Change, said: str) -> None:
    rewrite(folder, change)
    assert said in refused(folder)


def test_everything_that_is_wrong_is_counted_and_the_first_are_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in sorted(tensors) if "layers.0" in name])
    said = refused(folder)
    assert said.count("is missing") == 5
    assert "and 4 more" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 3}, "layers is 3 there and 2 here"),
        ({"rope_theta": 10_000.0}, "rope_base is 10000.0 there and 5000.0 here"),
        ({"rms_norm_eps": 1e-6}, "norm_epsilon is 1e-06 there and 1e-05 here"),
        ({"vocab_size": 64}, "vocabulary is 64 there and 61 here"),
        ({"model_type": "qwen3"}, "qk_norm is True there and False here"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"head_dim": 16}, "head_width is 16 there and 8 here"),
    ],
)
def test_weights_of_a_model_that_computes_something_else_are_refused_by_the_setting(
    folder: Path, settings: dict[str, object], said: str
) -> None:
    change_config(folder, **settings)
    assert said in refused(folder)


def test_a_setting_inside_the_experts_is_named_too(tmp_path: Path) -> None:
    spec = MODELS["glm4-moe"]
    folder = save(random_model(spec), spec, tmp_path / "there")
    change_config(folder, num_experts_per_tok=1)
    with pytest.raises(WeightsUnfit, match=r"moe\.top_k is 1 there and 2 here"):
        load_into_new(spec, folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_finite_number_is_refused_by_its_tensor(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[GATE][3, 4] = value

    rewrite(folder, spoil)
    with pytest.raises(WeightsUnfit, match=r"layers\.1\.mlp\.gate_proj.*no finite number"):
        load_into_new(LLAMA, folder)


def test_frequencies_and_a_head_that_is_the_embedding_are_tolerated_and_no_other_head(tmp_path: Path) -> None:
    model = random_model(DENSE)
    folder = save(model, DENSE, tmp_path / "there")

    def add(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    rewrite(folder, add)
    again = load_into_new(DENSE, folder).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    rewrite(folder, replaced("lm_head.weight", lambda value: value + 1e-3))
    with pytest.raises(WeightsUnfit, match=r"'lm_head\.weight' is extra"):
        load_into_new(DENSE, folder)


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_are_refused_by_name_and_never_opened(
    folder: Path, tmp_path: Path, name: str
) -> None:
    trace = tmp_path / "was-executed"
    (folder / name).write_bytes(pickle.dumps(Marker(trace)))
    load_into_new(LLAMA, folder)  # beside safetensors it is not even looked at
    (folder / ONE_FILE).unlink()
    with pytest.raises(BadWeights, match=name):
        WeightFolder.open(folder)
    (folder / ONE_FILE).write_bytes(
        (folder / name).read_bytes()
    )  # and under another name it is no safetensors
    with pytest.raises(BadWeights, match="no whole safetensors file"):
        WeightFolder.open(folder)
    assert not trace.exists()


def test_files_that_are_cut_or_strange_are_refused(folder: Path) -> None:
    data = (folder / ONE_FILE).read_bytes()
    for broken in (data[:-1], data[:100], b"", (1 << 63).to_bytes(8, "little") + data[8:]):
        (folder / ONE_FILE).write_bytes(broken)
        with pytest.raises(BadWeights, match="no whole safetensors file"):
            WeightFolder.open(folder)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "no name of a safetensors file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "no name of a safetensors file beside it"),
        ('{"weight_map": {"a": "model.bin"}}', "no name of a safetensors file beside it"),
        ('{"weight_map": {"a": 3}}', "no name of a safetensors file beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors is no whole safetensors file"),
    ],
)
def test_an_index_that_is_no_index_is_refused(folder: Path, broken: str, said: str) -> None:
    (folder / INDEX).write_text(broken)
    with pytest.raises(BadWeights, match=said):
        WeightFolder.open(folder)


def test_an_index_and_files_that_do_not_agree_are_refused_by_the_tensor(tmp_path: Path) -> None:
    folder = save(random_model(LLAMA), LLAMA, tmp_path / "there", file_bytes=20_000)
    index = json.loads((folder / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    moved = {**index["weight_map"], "model.norm.weight": files[0]}
    (folder / INDEX).write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(BadWeights, match=r"'model\.norm\.weight' should lie in"):
        WeightFolder.open(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**index["weight_map"], "more": files[0]}}))
    with pytest.raises(BadWeights, match=r"'more' should lie in .* in none of its files"):
        WeightFolder.open(folder)
    (folder / INDEX).write_text(json.dumps(index))
    tensors = load_file(folder / files[1])
    save_file({**tensors, "model.embed_tokens.weight": torch.zeros(61, 32)}, folder / files[1])
    with pytest.raises(BadWeights, match=r"'model\.embed_tokens\.weight' is in .* and in"):
        WeightFolder.open(folder)


def test_a_place_that_is_no_models_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="is no folder"):
        WeightFolder.open(tmp_path / "nowhere")
    with pytest.raises(BadWeights, match=r"config\.json cannot be read"):
        WeightFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadWeights, match="holds neither"):
        WeightFolder.open(tmp_path)


def test_the_digest_of_a_folder_changes_with_every_byte_that_is_read_and_with_no_other(
    tmp_path: Path,
) -> None:
    folder = save(random_model(LLAMA), LLAMA, tmp_path / "there", file_bytes=20_000)
    first = folder_digest(folder)
    (folder / "README.md").write_text("about")
    assert folder_digest(folder) == first
    for path in sorted(folder.iterdir()):
        if path.name == "README.md":
            continue
        data = path.read_bytes()
        path.write_bytes(data + b" " if path.suffix == ".json" else data[:-1] + bytes([data[-1] ^ 1]))
        assert folder_digest(folder) != first, path.name
        path.write_bytes(data)
    assert folder_digest(folder) == first
