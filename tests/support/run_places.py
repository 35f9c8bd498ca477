"""A whole run's surroundings in one folder: sealed dataset, keys, jobs; and attempts on forked ranks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from stoker.core.clock import SystemClock
from stoker.core.events import Event, Section, read_events
from stoker.core.ids import ReviewId, RunId
from stoker.core.signing import Ed25519Signer, Signer
from stoker.feed.mixture import MixturePart
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef
from stoker.spec.job import CommitRef, Job, JobPart
from stoker.spec.run import Precision, RunSpec
from stoker.train.attempt import run_attempt
from stoker.train.device import HOST
from stoker.train.rank_place import RankPlace
from stoker.train.run_objects import RunObjects
from stoker.train.telemetry import Telemetry
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_datasets import NAME, REVIEW_DIGEST, VERSION, SmallDataset, seal_small_dataset
from support.small_runs import KEK, RUN, SPEC, open_objects

RUN_SPEC = replace(SPEC, train=replace(SPEC.train, precision=Precision.BF16))
"""The small run in the precision that runs have unless told otherwise."""

DATASET_KEK = KekRef(f"dataset/{NAME}/{VERSION}", 1)


class Killed(Exception):
    """Stands for a kill: nothing of ours catches it."""


class MortalTelemetry(Telemetry):
    """Notes the random state of each step; its rank dies when it begins the step after `last_step`."""

    last_step = 1 << 62
    noted_step = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.random_states: dict[int, str] = {}

    def enter(self, section: Section, step: int | None = None) -> None:
        if step is not None and step > self.last_step:
            distributed.barrier()  # no rank is ended before the other has told its last step
            raise Killed
        self.noted_step = step or self.noted_step
        if section is Section.COMPUTE:
            state = torch.get_rng_state().numpy().tobytes()
            self.random_states[self.noted_step] = hashlib.sha256(state).hexdigest()
        super().enter(section, step)


@dataclass
class RunPlace:
    """A store with the sealed dataset, the keys, and a folder for events; counts its attempts."""

    folder: Path
    keys: KeySource
    dataset: SmallDataset
    kek: KekRef = KEK
    attempts: int = 0
    heldout_weight: float = 0.0
    """Above 0: a run reads a mixture of the dataset's two splits, this much of it held out."""
    told: list[Event] = field(default_factory=list)
    random_states: dict[int, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> RunPlace:
        """With keys in memory, so that forked ranks hold the same."""
        return cls.sealed(folder, MemoryKeys(KEK, DATASET_KEK), Ed25519Signer.from_seed(bytes(32)))

    @classmethod
    def sealed(
        cls,
        folder: Path,
        keys: KeySource,
        signer: Signer,
        *,
        kek: KekRef = KEK,
        dataset_kek: KekRef = DATASET_KEK,
    ) -> RunPlace:
        """With a dataset sealed by `keys`."""
        return cls(folder, keys, seal_small_dataset(folder / "store", keys, dataset_kek, signer), kek)

    def job(self, attempt: int, resume: CommitRef | None, spec: RunSpec, world_size: int) -> Job:
        """What a supervisor would write for this attempt."""
        return Job(
            run=RunId(RUN),
            attempt=attempt,
            world_size=world_size,
            node="n0",
            spec=spec,
            spec_digest="0" * 64,
            store_url=self.dataset.store_folder.as_uri(),
            cache_folder=str(self.folder / "cache"),
            run_folder=str(self.folder),
            rendezvous=str(self.folder / f"rendezvous-{attempt}"),
            dataset=NAME,
            dataset_version=VERSION,
            dataset_root=self.dataset.root,
            dataset_public_key=self.dataset.public_key.hex(),
            review=ReviewId("rev-00000000000000000000"),
            review_digest=REVIEW_DIGEST.hex(),
            checkpoint_kek=str(self.kek),
            resume=resume,
            parts=tuple(
                JobPart(name, VERSION, self.dataset.root, REVIEW_DIGEST.hex(), weight)
                for name, _, weight in self._mixture()
            ),
        )

    def _mixture(self) -> list[tuple[str, str, float]]:
        """Name, split and weight of each part."""
        if not self.heldout_weight:
            return []
        return [(NAME, "train", 1 - self.heldout_weight), ("other", "heldout", self.heldout_weight)]

    def objects(self) -> RunObjects:
        """The run's sealed objects."""
        return open_objects(self.dataset.store_folder, self.keys)

    def attempt(
        self,
        resume: CommitRef | None = None,
        *,
        spec: RunSpec = RUN_SPEC,
        world_size: int = 2,
        die_after: int | None = None,
        take_device: Callable[[], torch.device] = lambda: HOST,
    ) -> list[Event]:
        """Run the next attempt on forked ranks; rank 0's events, which `told` keeps even when it fails.

        Raises RankFailed with the rank's traceback.
        """
        self.attempts += 1
        job = self.job(self.attempts, resume, spec, world_size)
        path = self.folder / f"events-{self.attempts}"

        def one_rank(rank: int) -> dict[int, str]:
            with telling(path.with_suffix(f".{rank}"), job, rank) as telemetry, self.objects() as objects:
                if die_after is not None:
                    telemetry.last_step = die_after
                dataset = self.dataset.open(self.keys)
                run_attempt(
                    job,
                    RankPlace(rank, world_size, take_device()),
                    objects=objects,
                    dataset=dataset.tokens(),
                    parts=[MixturePart(dataset, weight, split) for _, split, weight in self._mixture()],
                    telemetry=telemetry,
                    clock=SystemClock(),
                )
                return telemetry.random_states

        try:
            self.random_states = run_ranks(world_size, one_rank)[0]
        finally:
            self.told = list(read_events(path.with_suffix(".0")).events)
        return self.told


@contextmanager
def telling(path: Path, job: Job, rank: int) -> Iterator[MortalTelemetry]:
    """Telemetry into a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield MortalTelemetry(
            descriptor, run=job.run, attempt=job.attempt, rank=rank, node=job.node, clock=SystemClock()
        )
    finally:
        os.close(descriptor)
