"""What the runs of this house told: the events on which promises 5, 6 and 7 are checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, read_events
from stoker.core.ids import RunId
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import RunRecord
from stoker.promises.house import OpenHouse


@dataclass(frozen=True, slots=True)
class ToldRun:
    """A run of the ledger with its events in order; `problem` says why they cannot be read, if so."""

    record: RunRecord
    events: tuple[Event, ...]
    problem: str

    @property
    def id(self) -> RunId:
        return self.record.id

    def of_kind(self, *kinds: EventKind) -> Iterator[Event]:
        return (event for event in self.events if event.kind in kinds)


def told_runs(house: OpenHouse) -> tuple[ToldRun, ...]:
    """Every run that the ledger knows of, oldest first."""
    runs = []
    for record in house.ledger.catalogue.runs():
        path = RunFolder.of(house.home.runs_dir, record.id).events
        try:
            runs.append(ToldRun(record, read_events(path).events, ""))
        except FileNotFoundError:
            runs.append(ToldRun(record, (), f"its events are gone from {path}"))
        except StokerError as error:
            runs.append(ToldRun(record, (), error.message))
    return tuple(runs)


def unreadable(runs: tuple[ToldRun, ...]) -> list[str]:
    """Runs whose events cannot be judged, each with the reason."""
    return [f"run {run.id}: {run.problem}" for run in runs if run.problem]
