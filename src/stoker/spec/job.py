"""What a supervisor tells a rank: one JSON file without secrets. Keys come over an inherited socket."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.core.ids import ReviewId, RunId
from stoker.spec.run import Device, RunSpec


@dataclass(frozen=True, slots=True)
class CommitRef:
    """One committed checkpoint: its place in the run's commit log and the digest of its sealed record."""

    sequence: int
    step: int
    digest: str


@dataclass(frozen=True, slots=True)
class JobPart:
    """One dataset of a mixture, as `Job` names the one dataset of another run."""

    dataset: str
    dataset_version: str
    dataset_root: str
    review_digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one run. `attempt` is also the fencing token: it only grows.

    `run_folder` holds events and rendezvous; `resume` is None on a fresh start; `dataset_public_key` is the
    raw Ed25519 key (hex) that signed the dataset's manifest; `review_digest` (64 hex digits) goes into the
    header of every sealed stream that the run writes. `parts` are the datasets of a mixture, the first of
    them the one that `dataset` and the fields behind it name; empty when the run reads no other.
    `init_digest` is of the folder `spec.train.init_from`, as the log recorded it when the run began. `device`
    is where every rank computes, CPU or CUDA: what `spec.launch.device` came to on this machine.
    `mttf_s`: how long such a run is believed to go on until it fails; 0 when nobody asked.
    """

    run: RunId
    attempt: int
    world_size: int
    node: str
    spec: RunSpec
    spec_digest: str
    store_url: str
    cache_folder: str
    run_folder: str
    rendezvous: str
    dataset: str
    dataset_version: str
    dataset_root: str
    dataset_public_key: str
    review: ReviewId
    review_digest: str
    checkpoint_kek: str
    resume: CommitRef | None
    parts: tuple[JobPart, ...] = ()
    init_digest: str = ""
    device: Device = Device.CPU
    mttf_s: float = 0.0
