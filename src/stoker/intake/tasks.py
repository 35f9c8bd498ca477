"""Phases and their tasks: what is done in which order, whoever does it. See docs/design/intake.md.

A task takes its input from the store, makes something of it, and stores that under one name. What is between
sees documents and tokens and no key, so it may run in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.config import from_plain
from stoker.core.result import plain
from stoker.core.signing import Signer
from stoker.intake.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Making:
    """What is made of a task's input, in a process that needs no key: `start(settings())` is the function."""

    start: Callable[[Any], Callable[[Any], Any]]
    settings: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Phase:
    """Tasks that do not depend on each other. Task n has `amounts[n]` of `unit` to do, for the progress bar.

    `load(n)` takes the input out of the store, `making` makes the output of it (None: the input is the
    output), `store(n, output)` seals and stores it; doing a task twice stores the same bytes. `here` says
    that the tasks are too small for any executor but the coordinator itself.
    """

    name: str
    label: str
    unit: str
    amounts: Sequence[float]
    load: Callable[[int], Any]
    making: Making | None
    store: Callable[[int, Any], None]
    here: bool = False

    @property
    def tasks(self) -> int:
        return len(self.amounts)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The manifest root, and what is in the dataset."""

    root: str
    figures: Mapping[str, JsonValue]


class Form(Protocol):
    """How a kind of recipe is prepared: its phases, in the plan's order, and what is done after the last."""

    def phase(self, name: str) -> Phase:
        """The phase of this name; those before it have been done. Raises what its inputs raise."""
        ...

    def commit(self, signer: Signer) -> BuildResult:
        """Write artefacts and manifest from what the phases stored."""
        ...


def run_tasks(phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
    """Do tasks one after the other in this process; `done` hears of each."""
    make = phase.making.start(phase.making.settings()) if phase.making is not None and tasks else None
    for task in tasks:
        loaded = phase.load(task)
        phase.store(task, make(loaded) if make is not None else loaded)
        done(task)


@dataclass(frozen=True, slots=True)
class TaskJob:
    """Tasks for a process that has only a home: which preparation, which phase, which task numbers.

    Holds no secret: `home` and `project` are folders, the keys are opened as the home says.
    """

    home: str
    project: str
    name: str
    version: str
    kek: str
    review_digest: str
    phase: str
    tasks: tuple[int, ...]

    @classmethod
    def of(cls, work: Workplace, phase: Phase, tasks: Sequence[int], home: Path, project: Path) -> TaskJob:
        """The job that does `tasks` of a phase of this workplace's preparation."""
        plan = work.plan
        return cls(
            str(home),
            str(project),
            plan.name,
            plan.version,
            plan.kek,
            plan.review_digest,
            phase.name,
            tuple(tasks),
        )

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(plain(self))

    @classmethod
    def decode(cls, data: bytes, place: str) -> TaskJob:
        """The job in `data`. Raises ConfigError, naming `place`."""
        return from_plain(cls, json.loads(data), place)
