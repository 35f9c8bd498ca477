"""A whole small home on which every promise is kept: text imported, reviewed and prepared, and a run.

All of it is real but the training: ranks tell what a trainer tells and commit real checkpoints, without
torch. Built once, copied for each test that breaks something.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stoker.core.clock import Clock, SystemClock
from stoker.core.home import Home
from stoker.core.progress import SILENT
from stoker.core.settings import Settings, StorePlace
from stoker.fleet.launch import start_run
from stoker.fleet.run_folder import RunFolder
from stoker.intake.importing import import_source
from stoker.intake.prepare import prepare_dataset
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import scan_and_seal
from stoker.keys.backend import KeyBackend
from stoker.keys.death import DeathProof, prove_death
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import with_moves, without_moves
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, ReviewRecord, Role, RunOutcome, RunRecord, SourceRecord
from stoker.promises.promise import PROMISES, Check, PromiseReport, Standing, VerifyReport
from stoker.promises.replicas import replicas_of
from stoker.promises.verify import verify_promises
from stoker.spec.recipe import ImportSpec, RecipeSpec
from stoker.spec.run import IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from stoker.store.rewraps import StoredRewraps
from support.key_death import destroy_at_once

DAY_S = 86_400.0
CACHE_BYTES = 1 << 26
PURPOSE = "research"
RECIPE = RecipeSpec(
    vocabulary=300,
    tokenizer_sample_bytes=4000,
    sequence_tokens=32,
    heldout_fraction=0.3,
    chunk_log2=14,
    samples_per_shard=512,
)
RUN = RunSpec(
    dataset="text",
    purpose=PURPOSE,
    train=TrainSpec(steps=6, checkpoint_every_steps=2),
    launch=LaunchSpec(ranks=2, restarts=2, isolation=IsolationPolicy.WHEN_POSSIBLE),
)
DEEDS = [{"rank": 0, "attempt": 1, "at_step": 4, "do": "signal", "signal": 9}]
"""Attempt 1 dies in step 4; attempt 2 goes on from step 2, so that step 3 is done twice."""

_WORDS = ["the", "furnace", "burns", "while", "seven", "stokers", "carry", "coal", "and", "count", "shovels"]


@dataclass(frozen=True, slots=True)
class PromiseHome:
    """The open parts of a home. `outside` stands for the machine's shared and temporary folders."""

    home: Home
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    cache: NodeCache
    clock: Clock
    outside: Path

    @property
    def source(self) -> SourceRecord:
        return self.ledger.catalogue.latest_source("letters")

    @property
    def dataset(self) -> DatasetRecord:
        return self.ledger.catalogue.latest_dataset("text")

    @property
    def review(self) -> ReviewRecord:
        return self.ledger.catalogue.review(self.dataset.review)

    @property
    def run(self) -> RunRecord:
        return self.ledger.catalogue.runs()[0]

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder.of(self.home.runs_dir, self.run.id)

    @property
    def canary(self) -> str:
        return self.backend.canary(f"source/letters/{self.source.version}")

    def verify(self, *numbers: int) -> VerifyReport:
        """Check the promises with these numbers; all of them when none is named."""
        return verify_promises(
            home=self.home,
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            cache=self.cache,
            clock=self.clock,
            progress=SILENT,
            outside=(self.outside,),
            numbers=numbers or tuple(PROMISES),
        )

    def destroy(self, kek: str) -> DeathProof:
        """By two identities, in an emergency; then its death is proved on the store and the node's cache."""
        destroy_at_once(kek, ledger=self.ledger, backend=self.backend)
        return self.prove(kek)

    def prove(self, kek: str, *copies: str) -> DeathProof:
        return prove_death(
            KekRef.parse(kek),
            actor="decider",
            ledger=self.ledger,
            backend=without_moves(self.backend),
            replicas=replicas_of(
                store=lambda: self.store,
                cache=self.cache,
                backend=self.backend,
                home=self.home,
                ledger=self.ledger,
                settings=Settings(store=StorePlace(replicas=copies)),
            ),
            clock=self.clock,
        )

    def found(self) -> None:
        """Two people: `asker`, a researcher, and `decider`, a reviewer."""
        for name, role in (("asker", Role.RESEARCHER), ("decider", Role.REVIEWER)):
            create_identity(
                name, role, actor=None, ledger=self.ledger, backend=self.backend, clock=self.clock
            )

    def bring_letters(self, name: str, backend: KeyBackend | None = None, count: int = 24) -> SourceRecord:
        """Import a folder of letters as source `name`; the folder is below `outside`."""
        folder = self.outside / f"folder-{name}"
        folder.mkdir()
        for number in range(count):
            words = " ".join(_WORDS[(number * 7 + place * place) % len(_WORDS)] for place in range(600))
            (folder / f"letter-{number:02}.txt").write_text(
                f"Letter {number} to p{number}@example.org\n{words}\n"
            )
        return import_source(
            name,
            folder,
            ImportSpec(),
            actor="asker",
            ledger=self.ledger,
            backend=backend or self.backend,
            store=self.store,
            progress=SILENT,
            clock=self.clock,
            locks=self.home.locks_dir,
        ).record

    def approve(self, source: SourceRecord, purpose: str = PURPOSE, *, days: float = 60.0) -> ReviewRecord:
        """A review of the source by two people."""
        scanned = scan_and_seal(
            source,
            actor="asker",
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
            processes=1,
        )
        asked = request_review(
            source,
            scanned.digest,
            RECIPE.policy,
            purpose=purpose,
            requested_by="asker",
            valid_s=days * DAY_S,
            ledger=self.ledger,
            clock=self.clock,
        )
        return decide_review(
            asked.id,
            approve=True,
            reason="fine",
            decided_by="decider",
            ledger=self.ledger,
            backend=self.backend,
            clock=self.clock,
        )

    def prepare(self, name: str, source: str, recipe: RecipeSpec = RECIPE) -> DatasetRecord:
        return prepare_dataset(
            name,
            source,
            recipe,
            purpose=PURPOSE,
            actor="asker",
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
            clock=self.clock,
            locks=self.home.locks_dir,
            processes=1,
        ).record

    def train(self) -> RunRecord:
        """A run of fake ranks that commit real checkpoints, with one failure in it."""
        deeds = self.outside / "deeds.json"
        deeds.write_text(json.dumps(DEEDS))
        program = Path(__file__).with_name("committing_rank.py")
        summary = start_run(
            RUN,
            home=self.home,
            ledger=self.ledger,
            backend=self.backend,
            store_url=self.home.store_dir.as_uri(),
            actor="asker",
            progress=SILENT,
            clock=self.clock,
            rank_command=(sys.executable, str(program), "--deeds", str(deeds)),
        )
        assert summary.outcome is RunOutcome.FINISHED, summary
        return self.ledger.catalogue.run(summary.run)


@contextmanager
def open_letters_home(place: Path) -> Iterator[PromiseHome]:
    """A home below `place` with eighty letters reviewed and prepared as `text`, for real ranks."""
    with open_promise_home(place) as home:
        home.found()
        home.approve(home.bring_letters("letters", count=80))
        home.prepare("text", "letters", RECIPE)
        yield home


@contextmanager
def open_promise_home(place: Path, clock: Clock | None = None) -> Iterator[PromiseHome]:
    """The home below `place`, made when absent. No tombstone is reconciled, as a face would do first."""
    clock = clock or SystemClock()
    home = Home(place / "home").prepare()
    outside = place / "outside"
    outside.mkdir(exist_ok=True)
    backend = open_backend(home.keys_dir.as_uri(), clock=clock, passphrase=None)
    store = ObjectStore.open(home.store_dir.as_uri())
    backend = with_moves(backend, StoredRewraps(lambda: store))
    cache = NodeCache(home.cache_dir, store, CACHE_BYTES)
    with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, clock) as ledger:
        yield PromiseHome(home, ledger, backend, store, cache, clock, outside)


def build_promise_home(place: Path) -> None:
    """Import, scan, approve, prepare, train: everything that there is a promise about."""
    with open_promise_home(place) as house:
        house.found()
        house.approve(house.bring_letters("letters"))
        house.prepare("text", "letters")
        house.train()


def standings(report: VerifyReport) -> dict[int, Standing]:
    return {each.number: each.standing for each in report.promises}


def broken(report: VerifyReport) -> set[int]:
    """The numbers of the promises that are not kept."""
    return {each.number for each in report.promises if each.standing is Standing.NOT_KEPT}


def promise(report: VerifyReport, number: int) -> PromiseReport:
    return next(each for each in report.promises if each.number == number)


def failures(report: VerifyReport, number: int) -> list[Check]:
    """The checks of one promise that do not hold."""
    return [check for check in promise(report, number).checks if not check.held]
