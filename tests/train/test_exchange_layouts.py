"""Foreign weights into every layout, and a sealed checkpoint of every layout into one folder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.tensor import DTensor

from stoker.spec.job import CommitRef
from stoker.spec.layout import LayoutSpec
from stoker.spec.model import ModelSpec
from stoker.train.checkpoint import save_checkpoint
from stoker.train.commit_store import CommitLog, read_commit
from stoker.train.exchange.contents import CONFIG
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.read import load_weights
from stoker.train.exchange.sources import SealedSource
from stoker.train.exchange.write import write_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallelize import spread
from support.foreign_models import MODELS, VOCABULARY, random_model, save
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import SPEC, open_objects, small_keys

Whole = dict[str, Tensor]


LAYOUTS = {
    "rows": LayoutSpec(dp_shard=4),
    "columns": LayoutSpec(dp_shard=2, tp=2),
    "stages": LayoutSpec(pp=2, tp=2, micro_batches=2),
    "experts": LayoutSpec(dp_shard=4, ep=2),
    "experts-and-columns": LayoutSpec(dp_shard=2, ep=2, tp=2),
}


def laid_out(spec: ModelSpec, layout: str) -> nn.Module:
    """A model over four ranks, of other first weights than those that are exchanged."""
    meshes = Meshes.build(LAYOUTS[layout], "cpu", 4)
    run = replace(SPEC, model=spec, layout=LAYOUTS[layout])
    model = spread(build_model(spec, VOCABULARY), meshes, run).model
    return materialise(model, 99, torch.device("cpu"))


def whole(model: nn.Module) -> Whole:
    """What this rank's stage holds, every tensor whole."""
    state = get_model_state_dict(model)
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).clone()
        for name, value in state.items()
    }


def loaded(spec: ModelSpec, layout: str, folder: Path, rank: int) -> Whole:
    model = laid_out(spec, layout)
    with WeightFolder.open(folder) as opened:
        load_weights(model, spec, VOCABULARY, opened)
    return whole(model)


CASES = [
    ("llama", "rows"),
    ("llama", "columns"),
    ("qwen3-tied-wide-heads", "stages"),
    ("glm4-moe", "rows"),
    ("mixtral", "experts"),
    ("qwen3-moe", "experts-and-columns"),
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_weights_come_into_a_layout_exactly(name: str, layout: str, tmp_path: Path) -> None:
    spec = MODELS[name]
    model = random_model(spec)
    folder = save(model, spec, tmp_path / "there", file_bytes=20_000)
    held: set[str] = set()
    for state in run_ranks(4, partial(loaded, spec, layout, folder)):
        held |= state.keys()
        for key, value in state.items():
            assert torch.equal(model.state_dict()[key], value), key
    assert held == model.state_dict().keys()


def sealed(
    spec: ModelSpec, layout: str, weights: Path, folder: Path, keys: MemoryKeys, rank: int
) -> CommitRef | None:
    """Commit a checkpoint of the model in `weights`, laid over four ranks."""
    with open_objects(folder, keys) as objects:
        log = CommitLog.begin(objects, 1, None) if rank == 0 else None
        model = laid_out(spec, layout)
        with WeightFolder.open(weights) as opened:
            load_weights(model, spec, VOCABULARY, opened)
        optimizer = torch.optim.AdamW(model.parameters())
        committed = save_checkpoint(
            model, optimizer, objects, rank=rank, log=log, attempt=1, step=3, keep=2, extra={}
        )
    return committed.reference if committed else None


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_sealed_checkpoint_of_a_layout_becomes_the_same_files_as_the_whole_model(
    name: str, layout: str, tmp_path: Path
) -> None:
    spec = MODELS[name]
    keys = small_keys()
    expected = save(random_model(spec), spec, tmp_path / "expected", file_bytes=20_000)
    (expected / CONFIG).rename(tmp_path / CONFIG)
    weights = save(random_model(spec), spec, tmp_path / "weights")
    reference = run_ranks(4, partial(sealed, spec, layout, weights, tmp_path / "store", keys))[0]
    assert reference is not None
    found = tmp_path / "found"
    found.mkdir()
    with open_objects(tmp_path / "store", keys) as objects:
        source = SealedSource(objects, read_commit(objects, reference))
        written = write_weights(found, spec, VOCABULARY, source, file_bytes=20_000)
    assert len(written) > 2
    for each in written:
        assert (found / each.name).read_bytes() == (expected / each.name).read_bytes(), each.name
    assert {path.name for path in expected.iterdir()} == {each.name for each in written}
