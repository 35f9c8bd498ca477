"""A fresh home with two people in it, and the way from a folder of text to a dataset, act by act."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final

from measuring.texts import SOURCES
from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.core.progress import SILENT
from stoker.intake.importing import import_source
from stoker.intake.prepare import PrepareReport, prepare_dataset
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import scan_and_seal
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import Role
from stoker.spec.recipe import RecipeSpec
from stoker.store.objects import ObjectStore

NAME: Final = "text"
"""Of the source and of the dataset."""

PURPOSE: Final = "research"
RESEARCHER: Final = "asker"
REVIEWER: Final = "decider"


class BenchHouse:
    """The embedded default of everything, under `root`."""

    def __init__(self, root: Path) -> None:
        self.clock = SystemClock()
        self.home = Home(root).prepare()
        self.backend = open_backend(self.home.keys_dir.as_uri(), clock=self.clock, passphrase=None)
        self.store_url = self.home.store_dir.as_uri()
        self.store = ObjectStore.open(self.store_url)
        self.ledger = Ledger.open(f"sqlite:///{self.home.ledger_path}", self.home.ledger_key_path, self.clock)
        for name, role in ((RESEARCHER, Role.RESEARCHER), (REVIEWER, Role.REVIEWER)):
            create_identity(
                name, role, actor=None, ledger=self.ledger, backend=self.backend, clock=self.clock
            )

    def __enter__(self) -> BenchHouse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ledger.close()

    def bring(self, folder: Path) -> None:
        """Import the Python sources in `folder`."""
        import_source(
            NAME,
            folder,
            SOURCES,
            actor=RESEARCHER,
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
            clock=self.clock,
            locks=self.home.locks_dir,
        )

    def scan(self) -> str:
        """Scan the source; the report's digest."""
        report = scan_and_seal(
            self.ledger.catalogue.latest_source(NAME),
            actor=RESEARCHER,
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
        )
        return report.digest

    def approve(self, scan_digest: str) -> None:
        """Request the source's use, and allow it."""
        review = request_review(
            self.ledger.catalogue.latest_source(NAME),
            scan_digest,
            RecipeSpec().policy,
            purpose=PURPOSE,
            requested_by=RESEARCHER,
            valid_s=86_400.0,
            ledger=self.ledger,
            clock=self.clock,
        )
        decide_review(
            review.id,
            approve=True,
            reason="a benchmark's own source",
            decided_by=REVIEWER,
            ledger=self.ledger,
            backend=self.backend,
            clock=self.clock,
        )

    def prepare(self, recipe: RecipeSpec, processes: int = 2) -> PrepareReport:
        """Prepare the dataset in so many processes, or find it."""
        return prepare_dataset(
            NAME,
            NAME,
            recipe,
            purpose=PURPOSE,
            actor=RESEARCHER,
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
            clock=self.clock,
            locks=self.home.locks_dir,
            processes=processes,
        )
