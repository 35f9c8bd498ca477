"""A run small enough for tests: a tiny decoder with its optimizer, and its sealed objects in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, LaunchSpec, Precision, RunSpec, TrainSpec
from stoker.store.objects import ObjectStore
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from stoker.train.optimizer import build_optimizer
from stoker.train.parallelize import parallelize
from stoker.train.run_objects import RunObjects
from stoker.train.step import train_step
from support.sealed_samples import MemoryKeys

RUN = "r-0123456789abcdef0123"
KEK = KekRef(f"run/{RUN}", 1)
REVIEW_DIGEST = bytes(range(32))
VOCABULARY = 61

SPEC = RunSpec(
    dataset="small",
    name="small",
    model=ModelSpec(layers=2, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(
        steps=8,
        global_batch=4,
        learning_rate=1e-2,
        warmup_steps=2,
        checkpoint_every_steps=3,
        keep_checkpoints=2,
        precision=Precision.FP32,
        seed=5,
    ),
    launch=LaunchSpec(ranks=2),
    evaluate=EvaluateSpec(sample_tokens=8),
)


def wider(spec: RunSpec) -> RunSpec:
    """The same run with another model."""
    return replace(spec, model=replace(spec.model, ffn_width=32))


def small_keys() -> MemoryKeys:
    """Keys under the run's KEK; make them before forking, so that all ranks hold the same."""
    return MemoryKeys(KEK)


def open_objects(folder: Path, keys: KeySource) -> RunObjects:
    """The run's objects in a store at `folder`."""
    store = ObjectStore.open(folder.as_uri())
    return RunObjects(store, keys, run=RUN, kek=KEK, review_digest=REVIEW_DIGEST)


def small_model(spec: RunSpec = SPEC, seed: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A fresh model and optimizer, sharded over all ranks of the process group."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),), mesh_dim_names=("dp_shard",))
    model = parallelize(build_model(spec.model, VOCABULARY), mesh, spec)
    materialise(model, seed, torch.device("cpu"))
    return model, build_optimizer(model, spec.train)


def take_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int, spec: RunSpec = SPEC
) -> list[float]:
    """Steps `first` to `last` on made-up tokens; the losses."""
    world, rank = distributed.get_world_size(), distributed.get_rank()
    rows = spec.train.global_batch // world
    losses = []
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(VOCABULARY, (spec.train.global_batch, 13), generator=generator)
        share = batch[rank * rows : (rank + 1) * rows]
        losses.append(train_step(model, optimizer, share, spec.train, step).loss)
    return losses


def whole_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor gathered and copied, whatever its sharding."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in tensors.items()
    }
