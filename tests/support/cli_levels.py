"""Homes that go further and further (people, source, approved, prepared, trained, cancelled), made once.

All test processes share them; each is made through the real command by whoever asks first. See cli_home.py.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from support.cli_home import PREPARE, CliHome, copied, write_texts

RUN_FILE: Final = """
dataset = "text"
name = "tiny"
[model]
layers = 1
width = 32
heads = 2
kv_heads = 1
ffn_width = 64
[train]
steps = 30
global_batch = 4
warmup_steps = 2
learning_rate = 3e-3
checkpoint_every_steps = 3
[evaluate]
heldout = false
sample_tokens = 8
"""


class Levels:
    """Homes that go further and further; each made by whoever asks first, in a folder that all share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def home(self, level: str) -> CliHome:
        """The home of a level (`people`, `source`, `approved`, `prepared`, ...); to be copied, never used."""
        home = CliHome(self._folder / level)
        with (self._folder / f"{level}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not home.place.exists():
                self._make(level)
        return home

    def _make(self, level: str) -> None:
        before, work = _LEVELS[level]
        draft = self._folder / f"{level}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        home = CliHome(draft)
        if before is None:
            draft.mkdir()
        else:
            home = copied(self.home(before), draft)
        work(home)
        draft.rename(self._folder / level)


def _people(home: CliHome) -> None:
    write_texts(home.texts)
    (home.place / "run.toml").write_text(RUN_FILE)
    home.stoker("identity", "create", "asker", "--role", "researcher", by="")
    home.stoker("identity", "create", "decider", "--role", "reviewer", by="")


def _source(home: CliHome) -> None:
    home.stoker("import", "notes", "texts")


def _approved(home: CliHome) -> None:
    home.stoker("review", "scan", "notes")
    asked = home.data("review", "request", "notes", "--purpose", "research")
    home.approve(asked["reviews"][0])


def _prepared(home: CliHome) -> None:
    home.stoker(*PREPARE)


def _trained(home: CliHome) -> None:
    home.stoker("train", "run.toml")


def _cancelled(home: CliHome) -> None:
    """A run that Ctrl-C ended after its second checkpoint."""

    def two_checkpoints() -> bool:
        return any(len(home.events(run, "checkpoint_committed")) >= 2 for run in home.runs())

    done = home.interrupt("train", "run.toml", "--json", when=two_checkpoints)
    (home.place / "cancelled.json").write_text(json.dumps({"code": done.code, "answer": done.out}))


_LEVELS: Final[dict[str, tuple[str | None, Callable[[CliHome], None]]]] = {
    "people": (None, _people),
    "source": ("people", _source),
    "approved": ("source", _approved),
    "prepared": ("approved", _prepared),
    "trained": ("prepared", _trained),
    "cancelled": ("prepared", _cancelled),
}
