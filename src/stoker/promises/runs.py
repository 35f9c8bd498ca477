"""What the runs of this house told: the events on which promises 5, 6 and 7 are checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.config import from_plain
from stoker.core.errors import StokerError
from stoker.core.events import Event, EventFile, EventKind, read_events
from stoker.core.ids import RunId
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import CheckpointRecord, RunRecord
from stoker.promises.house import OpenHouse
from stoker.spec.run import RunSpec


@dataclass(frozen=True, slots=True)
class ToldRun:
    """A run of the ledger with its events in order; `problem` says why they cannot be judged, if so.

    `checkpoints` are those that the ledger recorded, in the order of their commit.
    """

    record: RunRecord
    spec: RunSpec
    checkpoints: tuple[CheckpointRecord, ...]
    events: tuple[Event, ...]
    cut_lines: int
    problem: str

    @property
    def id(self) -> RunId:
        return self.record.id

    def of_kind(self, *kinds: EventKind) -> Iterator[Event]:
        return (event for event in self.events if event.kind in kinds)


def told_runs(house: OpenHouse) -> tuple[ToldRun, ...]:
    """Every run that the ledger knows of, oldest first."""
    return tuple(_told(house, record) for record in house.ledger.catalogue.runs())


def _told(house: OpenHouse, record: RunRecord) -> ToldRun:
    checkpoints = house.ledger.catalogue.checkpoints(record.id)
    path = RunFolder.of(house.home.runs_dir, record.id).events
    spec, problem = RunSpec(dataset=record.dataset), ""
    told = EventFile((), 0)
    try:
        spec = from_plain(RunSpec, dict(record.spec), f"the ledger's record of run {record.id}")
        told = read_events(path)
        strangers = sum(event.run != record.id for event in told.events)
        if strangers:
            problem = f"{strangers} events in {path} are of another run"
    except FileNotFoundError:
        problem = f"its events are gone from {path}"
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
    except StokerError as error:
        problem = error.message
    return ToldRun(record, spec, checkpoints, told.events, told.cut_lines, problem)


def unreadable(runs: tuple[ToldRun, ...]) -> list[str]:
    """Runs whose events cannot be judged, each with the reason."""
    return [f"run {run.id}: {run.problem}" for run in runs if run.problem]
