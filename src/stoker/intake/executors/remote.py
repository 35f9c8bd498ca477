"""What executors share whose tasks run in processes that open the home themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.errors import StokerError
from stoker.intake.task_errors import TaskFailed, UnusableExecutor
from stoker.intake.task_worker import open_keys
from stoker.intake.tasks import Phase
from stoker.intake.workplace import Workplace

ATTEMPTS: Final = 3
"""How often a task is tried in all."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the processes of an executor open: STOKER_HOME, and the folder whose stoker.toml counts too."""

    home: Path
    project: Path

    def require_open_keys(self, name: str) -> None:
        """Open the keys as a task would. Raises UnusableExecutor when they take a passphrase."""
        try:
            open_keys(self.home, self.project)
        except StokerError as error:
            raise UnusableExecutor(
                f"Tasks on {name} could not open the keys of {self.home}: {error.message}",
                hint="Prepare with --on local, or in a home whose key store has a key file, no passphrase: "
                "a passphrase is not sent to other processes.",
            ) from error


def elements_of(tasks: Sequence[int], most: int) -> list[range]:
    """`tasks` in at most `most` runs of about equal length: places in the list, first and last (left out)."""
    step = -(-len(tasks) // max(1, most))
    return [range(first, min(first + step, len(tasks))) for first in range(0, len(tasks), step)]


def run_attempts(
    work: Workplace,
    phase: Phase,
    tasks: Sequence[int],
    done: Callable[[int], None],
    attempt: Callable[[Sequence[int], Callable[[], None]], str],
) -> None:
    """Call `attempt` with the tasks that are left, until none is, ATTEMPTS times at the most.

    `attempt` is also given a function to call now and then, which looks into the store and tells `done`; it
    returns what a failed task said, "" when none did. Raises TaskFailed.
    """
    left = list(tasks)

    def look() -> None:
        found = work.done(phase.name)
        for task in [task for task in left if task in found]:
            left.remove(task)
            done(task)

    said = ""
    for _ in range(ATTEMPTS):
        said = attempt(tuple(left), look) or said
        look()
        if not left:
            return
    raise TaskFailed(
        f"Task {left[0]} of the phase {phase.name} failed {ATTEMPTS} times, {len(left)} have no result. "
        + message_of(said),
        hint="Mend what is named, then run the same command again: it goes on from what is done.",
    )


def message_of(said: str) -> str:
    """The message in what a task told, or the last line of what it said otherwise."""
    for line in reversed(said.splitlines()):
        try:
            told = json.loads(line)
            return f"The last try said: {told['message']}"
        except (ValueError, KeyError, TypeError):
            continue
    last = said.strip().splitlines()[-1:] or [""]
    return f"The last try said: {last[0][:300]!a}" if last[0] else "It said nothing."
