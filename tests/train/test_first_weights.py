"""First weights from elsewhere: the right model, the right tokens, and the bytes that the log recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stoker.intake.tokenizer import train_tokenizer
from stoker.spec.run import RunSpec, TrainSpec
from stoker.spec.vision import VisionSpec
from stoker.train.exchange.contents import TOKENIZER, folder_digest
from stoker.train.exchange.errors import BadWeights, FormUnknown, WeightsUnfit
from stoker.train.exchange.first_weights import judged_digest
from stoker.train.exchange.read import load_first_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from support.foreign_models import LLAMA, VOCABULARY, random_model, save

TOKENS = train_tokenizer(["one text, one tokenizer, and the text again"], 270)
OTHER = train_tokenizer(["zwei Worte, zwei andere Worte"], 270)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(random_model(LLAMA), LLAMA, tmp_path / "there")


def spec_from(folder: Path) -> RunSpec:
    return RunSpec(dataset="text", model=LLAMA, train=TrainSpec(init_from=str(folder)))


def load(folder: Path, *, digest: str = "", tokens: str = TOKENS) -> dict[str, torch.Tensor]:
    model = materialise(build_model(LLAMA, VOCABULARY), 9, torch.device("cpu"))
    load_first_weights(
        model, LLAMA, VOCABULARY, folder, digest=digest, tokenizer_json=tokens, verifies=bool(digest)
    )
    return model.state_dict()


def test_a_run_from_its_seed_has_no_digest_and_one_from_a_folder_has_the_folders(folder: Path) -> None:
    assert judged_digest(RunSpec(dataset="text", model=LLAMA), VOCABULARY) == ""
    assert judged_digest(spec_from(folder), VOCABULARY) == folder_digest(folder)


def test_what_does_not_fit_is_refused_before_a_run_exists(folder: Path, tmp_path: Path) -> None:
    run = spec_from(folder)
    with pytest.raises(WeightsUnfit, match="layers is 2 there and 3 here"):
        judged_digest(replace(run, model=replace(LLAMA, layers=3)), VOCABULARY)
    with pytest.raises(WeightsUnfit, match="vocabulary is 61 there and 300 here"):
        judged_digest(run, 300)
    with pytest.raises(FormUnknown, match="another family"):
        judged_digest(replace(run, vision=VisionSpec()), VOCABULARY)
    with pytest.raises(BadWeights, match=r"config\.json cannot be read"):
        judged_digest(spec_from(tmp_path), VOCABULARY)


def test_a_folder_that_was_changed_since_the_run_began_ends_the_attempt(folder: Path) -> None:
    digest = folder_digest(folder)
    assert torch.equal(
        load(folder, digest=digest)["norm.weight"], random_model(LLAMA).state_dict()["norm.weight"]
    )
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadWeights, match="where the run began with"):
        load(folder, digest=digest)


def test_numbers_that_mean_other_tokens_are_refused_and_how_merges_are_written_is_not(folder: Path) -> None:
    (folder / TOKENIZER).write_text(OTHER)
    with pytest.raises(WeightsUnfit, match="another token"):
        load(folder)
    body = json.loads(TOKENS)
    merges = body["model"]["merges"]
    paired = [each if isinstance(each, list) else each.split(" ") for each in merges]
    for written in (paired, [" ".join(each) for each in paired]):
        body["model"]["merges"] = written
        (folder / TOKENIZER).write_text(json.dumps(body))
        assert load(folder).keys() == random_model(LLAMA).state_dict().keys()
    body["model"]["merges"] = paired[:-1]
    (folder / TOKENIZER).write_text(json.dumps(body))
    with pytest.raises(WeightsUnfit, match="another token"):
        load(folder)
    (folder / TOKENIZER).unlink()
    assert load(folder).keys() == random_model(LLAMA).state_dict().keys()
