"""A home with a reviewed dataset on record, so that runs of fake ranks can be started for real."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.core.ids import RunId, new_version_id
from stoker.core.progress import SILENT
from stoker.fleet.launch import resume_run, start_run
from stoker.fleet.summary import RunSummary
from stoker.intake.review import decide_review, request_review
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.keys.refs import Purpose
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, ReviewRecord, Role, SourceRecord
from stoker.spec.recipe import PolicySpec
from stoker.spec.run import IsolationPolicy, LaunchSpec, RankOutput, RunSpec, TrainSpec
from support.fake_house import FAKE_RANK

SPEC = RunSpec(
    dataset="text",
    train=TrainSpec(steps=6, checkpoint_every_steps=2),
    launch=LaunchSpec(ranks=2, restarts=2, isolation=IsolationPolicy.OFF, rank_output=RankOutput.WHOLE),
)


@dataclass(frozen=True, slots=True)
class RunHouse:
    """What `start_run` takes; `asker` may train on dataset `text` for research."""

    home: Home
    ledger: Ledger
    backend: KeyBackend
    clock: SystemClock
    review: ReviewRecord
    dataset: DatasetRecord

    def start(self, spec: RunSpec = SPEC, *, deeds: Sequence[dict[str, Any]] = (), **more: Any) -> RunSummary:
        return start_run(spec, **self._arguments(deeds, more))

    def resume(self, run: RunId, *, deeds: Sequence[dict[str, Any]] = (), **more: Any) -> RunSummary:
        return resume_run(run, **self._arguments(deeds, more))

    def _arguments(self, deeds: Sequence[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        path = self.home.root / "deeds.json"
        path.write_text(json.dumps(list(deeds)))
        return {
            "home": self.home,
            "ledger": self.ledger,
            "backend": self.backend,
            "store_url": self.home.store_dir.as_uri(),
            "actor": "asker",
            "progress": SILENT,
            "clock": self.clock,
            "rank_command": (sys.executable, FAKE_RANK, "--deeds", str(path)),
            **more,
        }

    def actions(self) -> list[str]:
        """What the audit log says was done to runs."""
        return [each.action for each in self.ledger.audit.entries() if each.action.startswith("run.")]


@contextmanager
def run_house(root: Path, *, dataset_lives_s: float = 3_600.0) -> Iterator[RunHouse]:
    """A prepared home under `root`."""
    clock = SystemClock()
    home = Home(root).prepare()
    backend = open_backend(home.keys_dir.as_uri(), clock=clock, passphrase=None)
    with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, clock) as ledger:
        for name, role in (("asker", Role.RESEARCHER), ("decider", Role.REVIEWER)):
            create_identity(name, role, actor=None, ledger=ledger, backend=backend, clock=clock)
        source = SourceRecord(
            "text", new_version_id(), "5" * 64, "source/text#1", 3, 100, {}, "asker", clock.now_s()
        )
        with ledger.act(actor="asker", action="source.import", subject="source/text", detail={}) as catalogue:
            catalogue.add_source(source)
        review = request_review(
            source,
            "6" * 64,
            PolicySpec(),
            purpose="research",
            requested_by="asker",
            valid_s=7_200.0,
            ledger=ledger,
            clock=clock,
        )
        review = decide_review(
            review.id,
            approve=True,
            reason="fine",
            decided_by="decider",
            ledger=ledger,
            backend=backend,
            clock=clock,
        )
        kek = backend.create_kek("dataset/text/1", Purpose.DATASET, expires_s=None)
        dataset = DatasetRecord(
            name="text",
            version=new_version_id(),
            root="7" * 64,
            kek=str(kek),
            source="text",
            source_version=source.version,
            source_root=source.manifest_root,
            review=review.id,
            recipe_digest="8" * 64,
            recipe={},
            figures={},
            prepared_by="asker",
            prepared_s=clock.now_s(),
            expires_s=clock.now_s() + dataset_lives_s,
            state=DatasetState.LIVE,
        )
        with ledger.act(
            actor="asker", action="dataset.prepare", subject="dataset/text", detail={}
        ) as catalogue:
            catalogue.add_dataset(dataset)
        yield RunHouse(home, ledger, backend, clock, review, dataset)


def another_version(dataset: DatasetRecord, **changes: Any) -> DatasetRecord:
    """A later version of the same dataset."""
    return replace(dataset, version=new_version_id(), root="9" * 64, **changes)
