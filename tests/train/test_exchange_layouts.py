"""Foreign weights into every layout, and a sealed checkpoint of every layout into one folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from stoker.spec.job import CommitRef
from stoker.spec.model import ModelSpec
from stoker.train.checkpoint import save_checkpoint
from stoker.train.commit_store import CommitLog, read_commit
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.read import load_weights
from stoker.train.exchange.sources import SealedSource, StateSource
from stoker.train.exchange.write import write_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from support.foreign_models import MODELS, VOCABULARY, random_model, save
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import open_objects, small_keys

Whole = dict[str, Tensor]


def spread(model: nn.Module, layout: str) -> nn.Module:
    """The model over four ranks: rows, columns within rows (strided), rows of experts, or whole."""
    if layout == "rows":
        fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
    elif layout == "columns-in-rows":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
        plan = {
            "query": ColwiseParallel(),
            "output": RowwiseParallel(),
            "gate": ColwiseParallel(),
            "down": RowwiseParallel(),
        }
        for module in model.modules():
            children = dict(module.named_children())
            chosen = {name: way for name, way in plan.items() if isinstance(children.get(name), nn.Linear)}
            parallelize_module(module, mesh["tp"], chosen)
        fully_shard(model, mesh=mesh["dp_shard"])
    elif layout == "experts":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("ep", "tp"))
        for module in model.modules():
            for name, value in list(module.named_parameters(recurse=False)):
                last = Shard(value.dim() - 1) if value.dim() == 3 else Replicate()
                placed = distribute_tensor(value.detach(), mesh, [Shard(0), last], src_data_rank=None)
                setattr(module, name, nn.Parameter(placed))
    return model


def whole(model: nn.Module) -> Whole:
    state = get_model_state_dict(model)
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).clone()
        for name, value in state.items()
    }


def loaded(spec: ModelSpec, layout: str, folder: Path, rank: int) -> tuple[Whole, bool]:
    model = spread(materialise(build_model(spec, VOCABULARY), 99, torch.device("cpu")), layout)
    before = [value.to_local().clone() for value in model.parameters() if isinstance(value, DTensor)]
    with WeightFolder.open(folder) as opened:
        load_weights(model, spec, VOCABULARY, opened)
    after = [value.to_local() for value in model.parameters() if isinstance(value, DTensor)]
    changed = all(
        not torch.equal(left, right) for left, right in zip(before, after, strict=True) if left.numel()
    )
    return whole(model), changed and bool(before)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("llama", "rows"), ("llama", "columns-in-rows"), ("glm4-moe", "rows"), ("mixtral", "experts")],
)
def test_weights_come_into_a_layout_exactly(name: str, layout: str, tmp_path: Path) -> None:
    spec = MODELS[name]
    model = random_model(spec)
    folder = save(model, spec, tmp_path / "there", file_bytes=20_000)
    for state, changed in run_ranks(4, partial(loaded, spec, layout, folder)):
        assert changed
        assert state.keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(state[key], value), key


def sealed(spec: ModelSpec, layout: str, folder: Path, keys: MemoryKeys, rank: int) -> CommitRef | None:
    """Commit a checkpoint of the random model over four ranks."""
    with open_objects(folder, keys) as objects:
        log = CommitLog.begin(objects, 1, None) if rank == 0 else None
        model = spread(random_model(spec), layout)
        optimizer = torch.optim.AdamW(model.parameters())
        committed = save_checkpoint(
            model, optimizer, objects, rank=rank, log=log, attempt=1, step=3, keep=2, extra={}
        )
    return committed.reference if committed else None


@pytest.mark.parametrize(
    ("name", "layout"), [("llama", "rows"), ("glm4-moe", "rows"), ("llama", "columns-in-rows")]
)
def test_a_sealed_checkpoint_of_a_layout_becomes_the_same_files_as_the_whole_model(
    name: str, layout: str, tmp_path: Path
) -> None:
    spec = MODELS[name]
    keys = small_keys()
    reference = run_ranks(4, partial(sealed, spec, layout, tmp_path / "store", keys))[0]
    assert reference is not None
    expected, found = tmp_path / "expected", tmp_path / "found"
    expected.mkdir()
    found.mkdir()
    write_weights(expected, spec, VOCABULARY, StateSource(random_model(spec).state_dict()), file_bytes=20_000)
    with open_objects(tmp_path / "store", keys) as objects:
        source = SealedSource(objects, read_commit(objects, reference))
        written = write_weights(found, spec, VOCABULARY, source, file_bytes=20_000)
    assert len(written) > 2
    for each in written:
        assert (found / each.name).read_bytes() == (expected / each.name).read_bytes(), each.name
    assert {path.name for path in expected.iterdir()} == {each.name for each in written}
