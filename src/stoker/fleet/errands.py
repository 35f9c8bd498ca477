"""What the supervisor needs of the house, on the real one: permission, jobs, leases, records.

Before every attempt and every renewal it is checked again that the review is in force and the dataset is
live. See docs/design/fleet.md, "The supervisor".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stoker.core.atomic import write_atomic
from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.core.events import Event, read_events
from stoker.core.result import plain
from stoker.fleet.errors import DatasetGone
from stoker.fleet.failure_history import after_run
from stoker.fleet.links import Link, require_protection
from stoker.fleet.run_folder import RunFolder
from stoker.intake.permission import require_permission
from stoker.intake.review_gate import terms_of
from stoker.keys.agent import KeyAgent
from stoker.keys.backend import KeyBackend
from stoker.keys.lease import Lease
from stoker.keys.refs import KekRef
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import CheckpointRecord, DatasetRecord, DatasetState, ReviewRecord
from stoker.spec.job import CommitRef, Job
from stoker.spec.reliability import FailureRate
from stoker.train.checkpoint_levels import SecondLevel

WORKER: Final = (sys.executable, "-P", "-m", "stoker.train.worker")


def require_live(dataset: DatasetRecord, clock: Clock) -> None:
    """Raise DatasetGone unless the dataset is live and its time is not over."""
    if dataset.state is not DatasetState.LIVE:
        raise DatasetGone(
            f"Dataset {dataset.name} ({dataset.version}) is {dataset.state}.",
            hint="Prepare it again from its source.",
        )
    if clock.now_s() >= dataset.expires_s:
        raise DatasetGone(
            f"Dataset {dataset.name} ({dataset.version}) expired at {iso_utc(dataset.expires_s)}.",
            hint="Prepare it again from its source; a review of the source must be in force.",
        )


def require_leave(
    ledger: Ledger,
    datasets: Sequence[DatasetRecord],
    purpose: str,
    clock: Clock,
    *,
    run: str,
    links: Sequence[Link] = (),
) -> tuple[tuple[DatasetRecord, ReviewRecord], ...]:
    """Each dataset with the review that allows its use for `purpose` now, by the run of this name.

    `links` are those that its data, or what is computed from it, crosses. Raises DatasetGone, LinkTooWeak,
    and intake's refusals, for the first that may not be used.
    """
    allowed = []
    for dataset in datasets:
        require_live(dataset, clock)
        review = require_permission(ledger, dataset, purpose, clock, run)
        require_protection(links, terms_of(ledger, review).least_protection, dataset.name)
        allowed.append((dataset, review))
    return tuple(allowed)


@dataclass(frozen=True, slots=True)
class HouseErrands:
    """Errands for one run; `job` is the job without attempt, rendezvous and resume point.

    `dataset_roots` are all that the run reads: leave is asked for each, and the lease covers each.
    """

    ledger: Ledger
    backend: KeyBackend
    folder: RunFolder
    dataset_roots: tuple[str, ...]
    job: Job
    actor: str
    clock: Clock
    rank_command: Sequence[str] = WORKER
    links: Sequence[Link] = ()
    second: SecondLevel | None = None
    failures: FailureRate | None = None
    """What is believed of a node's failures, where the run chooses its checkpoints by it."""

    def resume_step(self) -> int:
        point = self._resume_point()
        return 0 if point is None else point.step

    def prepare(self, attempt: int, world_size: int) -> tuple[tuple[str, ...], ...]:
        """Raises DatasetGone, CheckpointLost, and intake's refusals when a review is no more in force."""
        self._permissions()
        point = self._resume_point()
        if self.second is not None and point is not None:
            self.second.bring_back(point)
        job = replace(
            self.job,
            attempt=attempt,
            world_size=world_size,
            rendezvous=str(self.folder.rendezvous(attempt)),
            resume=point,
            mttf_s=self._mttf_s(),
        )
        path = self.folder.job(attempt)
        write_atomic(path, json.dumps(plain(job), indent=1).encode())
        return self.commands(attempt, world_size)

    def commands(self, attempt: int, world_size: int) -> tuple[tuple[str, ...], ...]:
        path = str(self.folder.job(attempt))
        ranks = range(world_size)
        return tuple((*self.rank_command, "--job", path, "--rank", str(rank)) for rank in ranks)

    def lease(self, attempt: int) -> KeyAgent:
        """Opens the datasets and the run's own checkpoints, seals only these; recorded in the ledger."""
        own = KekRef.parse(self.job.checkpoint_kek)
        read = frozenset(KekRef.parse(dataset.kek) for dataset, _ in self._permissions())
        lease = Lease(
            id=f"{self.job.run}/{attempt}",
            holder=f"run/{self.job.run}",
            may_open=read | {KekRef(own.scope, epoch) for epoch in range(1, own.epoch + 1)},
            may_seal=frozenset({own}),
            purpose_text=self.job.spec.purpose,
            expires_s=self.lease_expiry_s(),
        )
        detail: Mapping[str, JsonValue] = {
            "attempt": attempt,
            "resume_step": self.resume_step(),
            "may_open": sorted(str(kek) for kek in lease.may_open),
            "may_seal": sorted(str(kek) for kek in lease.may_seal),
        }
        with self.ledger.act(actor=self.actor, action="run.lease", subject=self._subject, detail=detail):
            return KeyAgent(self.backend, lease, self.clock)

    def lease_expiry_s(self) -> float:
        """Never later than the end of a dataset or of its review. Raises as `prepare` does."""
        ends_s = [min(dataset.expires_s, review.expires_s) for dataset, review in self._permissions()]
        return min(self.clock.now_s() + self.job.spec.launch.lease_s, *ends_s)

    def committed(self, event: Event) -> None:
        """Record a checkpoint in the ledger."""
        record = CheckpointRecord(
            run=self.job.run,
            sequence=int(event.number("sequence")),
            step=int(event.number("step")),
            attempt=event.attempt,
            digest=event.text("digest"),
            committed_s=event.ts,
        )
        detail: Mapping[str, JsonValue] = {
            "sequence": record.sequence,
            "step": record.step,
            "digest": record.digest,
        }
        with self.ledger.act(
            actor=self.actor, action="run.checkpoint", subject=self._subject, detail=detail
        ) as catalogue:
            catalogue.add_checkpoint(record)
        if self.second is not None:
            self.second.committed(CommitRef(record.sequence, record.step, record.digest))

    def _mttf_s(self) -> float:
        """How long the run is believed to go on until it fails, after what it has been through itself."""
        if self.failures is None:
            return 0.0
        path = self.folder.events
        return after_run(self.failures, read_events(path).events if path.exists() else ()).mttf_s(
            self.job.spec.launch.nodes
        )

    def _resume_point(self) -> CommitRef | None:
        records = self.ledger.catalogue.checkpoints(self.job.run)
        if not records:
            return None
        last = records[-1]
        return CommitRef(last.sequence, last.step, last.digest)

    def _permissions(self) -> tuple[tuple[DatasetRecord, ReviewRecord], ...]:
        """Every dataset of the run with the review that allows its use now."""
        datasets = [self.ledger.catalogue.dataset_of_root(root) for root in self.dataset_roots]
        spec = self.job.spec
        return require_leave(self.ledger, datasets, spec.purpose, self.clock, run=spec.name, links=self.links)

    @property
    def _subject(self) -> str:
        return f"run/{self.job.run}"
