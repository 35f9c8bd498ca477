"""Models of every family under our own names: what was sealed comes back as a module, bit by bit."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stoker.spec.job import CommitRef
from stoker.spec.moderation import ModerationSpec, TextTowerSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionSpec
from stoker.train.checkpoint import save_checkpoint
from stoker.train.commit_store import CommitLog, read_commit
from stoker.train.exchange.errors import FormUnknown, WeightsUnfit
from stoker.train.exchange.own_form import MODEL, OwnModel, description, load_model, own_tensors
from stoker.train.exchange.sources import SealedSource
from stoker.train.exchange.write import write_tensors
from stoker.train.families import FAMILIES, Sizes, family_of
from stoker.train.models.initialise import materialise
from support.foreign_models import MODELS
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import open_objects, small_keys

VOCABULARY = 61
FAMILY_SPECS = {
    "model": MODELS["glm4-moe"],
    "vision": VisionSpec(layers=2, width=16, heads=2, ffn_width=24, classes=3),
    "speech": SpeechSpec(layers=1, width=16, heads=2, ffn_width=24),
    "moderation": ModerationSpec(text=TextTowerSpec(layers=1, width=16, heads=2, ffn_width=24)),
}


def module_of(spec: object) -> torch.nn.Module:
    return materialise(family_of(spec).build(spec, Sizes(VOCABULARY)), 3, torch.device("cpu"))


def sealed(spec: object, folder: Path, keys: MemoryKeys, rank: int) -> CommitRef | None:
    with open_objects(folder, keys) as objects:
        model = module_of(spec)
        optimizer = torch.optim.AdamW(model.parameters())
        log = CommitLog.begin(objects, 1, None)
        committed = save_checkpoint(
            model, optimizer, objects, rank=rank, log=log, attempt=1, step=1, keep=2, extra={}
        )
    return committed.reference if committed else None


def exported(spec: object, place: Path, classes: tuple[str, ...] = ()) -> Path:
    """The model out of a sealed checkpoint, in a folder of our own form."""
    keys = small_keys()
    (reference,) = run_ranks(1, partial(sealed, spec, place / "store", keys))
    assert reference is not None
    folder = place / "out"
    folder.mkdir()
    with open_objects(place / "store", keys) as objects:
        source = SealedSource(objects, read_commit(objects, reference))
        write_tensors(folder, own_tensors(source), source)
    (folder / MODEL).write_text(json.dumps(description(spec, VOCABULARY, classes)))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_every_family_goes_out_and_in_again(family: str, tmp_path: Path) -> None:
    spec = FAMILY_SPECS[family]
    found = load_model(exported(spec, tmp_path, ("one", "two")))
    expected = module_of(spec)
    assert isinstance(found, OwnModel)
    assert type(found.module) is type(expected)
    assert (found.family, found.vocabulary, found.classes) == (family, VOCABULARY, ("one", "two"))
    state = found.module.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(state[name], value), name


def test_what_is_not_of_our_own_form_is_refused_by_name(tmp_path: Path) -> None:
    folder = exported(FAMILY_SPECS["vision"], tmp_path)
    body = json.loads((folder / MODEL).read_text())
    for change, said in (({"format": "stoker model 9"}, "stoker model 9"), ({"family": "smell"}, "smell")):
        (folder / MODEL).write_text(json.dumps({**body, **change}))
        with pytest.raises(FormUnknown, match=said):
            load_model(folder)
    (folder / MODEL).write_text(json.dumps(body))
    tensors = load_file(folder / "model.safetensors")
    first, second, *_ = sorted(tensors)
    save_file({name: value for name, value in tensors.items() if name != first}, folder / "model.safetensors")
    with pytest.raises(WeightsUnfit, match=f"'{first}' is missing"):
        load_model(folder)
    save_file({**tensors, "more": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(WeightsUnfit, match="'more' is extra"):
        load_model(folder)
    save_file({**tensors, second: torch.zeros(1, 2, 3)}, folder / "model.safetensors")
    with pytest.raises(WeightsUnfit, match=r"is \[1, 2, 3\], where"):
        load_model(folder)
