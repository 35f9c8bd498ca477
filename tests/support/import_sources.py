"""Importing small sources of any form in tests, and seeing what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stoker.core.progress import SILENT, Progress
from stoker.intake.importing import ImportReport, import_source
from stoker.intake.source_reader import SourceReader
from stoker.keys.partition import BackendKeySource
from stoker.keys.states import KekState
from stoker.ledger.records import SourceRecord
from stoker.spec.source import ImportSpec, OnFault
from support.intake_home import IntakeHome

NAME = "brought"


def bring(
    home: IntakeHome,
    place: Path | str,
    spec: ImportSpec | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> ImportReport:
    """Import `place` under these settings."""
    return import_source(
        NAME,
        place,
        spec or ImportSpec(**settings),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=progress,
        clock=home.clock,
        locks=home.locks,
    )


def leaving_out(home: IntakeHome, place: Path | str, **settings: Any) -> ImportReport:
    """Import `place`; what is broken is left out and counted."""
    return bring(home, place, ImportSpec(on_fault=OnFault.LEAVE_OUT, **settings))


def contents(home: IntakeHome, record: SourceRecord) -> dict[str, bytes]:
    """The items of a source version in their order."""
    keys = BackendKeySource(home.backend)
    with SourceReader.open(record, home.store, keys, home.backend.signer("manifest").public_key) as reader:
        return {file.path: bytes(reader.read(file)) for file in reader.files}


def reasons(report: ImportReport) -> dict[str, int]:
    """How many of what were left out; the ledger has the same numbers."""
    counts = {each.reason.value: each.entries for each in report.left_out}
    assert counts == dict(report.record.left_out)
    return counts


def nothing_is_left(home: IntakeHome) -> bool:
    """No object, no record, and no key that could still seal."""
    states = [info.state for info in home.backend.list_keks() if info.ref.scope.startswith("source/")]
    unused = KekState.ACTIVE not in states
    return home.objects("sources") == set() and home.ledger.catalogue.sources() == () and unused
