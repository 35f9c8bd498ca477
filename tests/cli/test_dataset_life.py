"""`stoker dataset expire` and `gc` through the real command, with a live run and a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import EXIT_USAGE
from stoker.intake.errors import DatasetEnded, NotAllowed
from stoker.ledger.errors import LedgerRefused, UnknownDataset
from support.cli_home import PREPARE, CliHome, ended, wait_until

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    """A home with one prepared dataset."""
    return home_at("prepared")


def person(home: CliHome, name: str, role: str) -> None:
    home.stoker("identity", "create", name, "--role", role, by="")


def dataset(home: CliHome, name: str = "text") -> dict[str, Any]:
    (row,) = home.data("dataset", "show", name)["datasets"]
    return dict(row)


def test_an_expired_dataset_is_used_no_more_and_can_be_cleared_away(home: CliHome) -> None:
    row = dataset(home)
    assert "would expire" in home.stoker("dataset", "expire", "text", "--now", "--dry-run").out
    in_two_days = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    later = home.data("dataset", "expire", "text", "--at", in_two_days.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert later["expires_s"] == in_two_days.timestamp() < later["before_s"]
    home.refused(LedgerRefused, "dataset", "expire", "text", "--at", "2999-01-01")
    text = home.stoker("dataset", "expire", "text", "--now").out
    assert "this destroys nothing" in text
    assert f"stoker key destroy {row['kek']}" in text
    assert dataset(home)["state"] == "expired"
    assert "expired at" in home.refused(DatasetEnded, "dataset", "expire", "text", "--now")
    assert "expired at" in home.refused(DatasetEnded, "dataset", "sample", "text", by="decider")
    kept = home.data("dataset", "gc")
    assert (kept["collected"], len(kept["kept"])) == ([], 1)
    objects = home.objects("datasets/text")
    told = home.data("dataset", "gc", "--older-than", "0", "--dry-run")
    assert home.objects("datasets/text") == objects
    done = home.data("dataset", "gc", "--older-than", "0")
    assert done == {**told, "dry_run": False}
    assert done["objects"] == len(objects)
    assert home.objects("datasets/text") == {}
    assert home.data("dataset", "ls")["hidden"] == 1
    (gone,) = home.data("dataset", "ls", "--all")["datasets"]
    assert (gone["state"], gone["root"]) == ("collected", row["root"])
    shown = home.data("dataset", "show", "text")
    assert (shown["splits"], shown["review"]["id"]) == ([], row["review"])
    assert home.log_holds()
    again = home.data(*PREPARE)
    assert not again["found"]
    assert again["record"]["version"] != row["version"]


def test_who_may_not_end_or_clear_away_is_told_so(home: CliHome) -> None:
    person(home, "hands", "operator")
    person(home, "watcher", "auditor")
    told = home.refused(NotAllowed, "dataset", "expire", "text", "--now", by="hands")
    assert "asker, who prepared it" in told
    home.refused(NotAllowed, "dataset", "gc", by="watcher")
    home.refused(UnknownDataset, "dataset", "expire", "txet", "--now")
    for wrong in ((), ("--at", "tomorrow")):
        assert home.stoker("dataset", "expire", "text", *wrong, code=EXIT_USAGE).out == ""
    assert dataset(home)["state"] == "live"
    assert {"dataset.expire", "dataset.collect"}.isdisjoint(home.acts())


def test_a_destroyed_dataset_is_refused_everywhere_and_cleared_away_at_once(home: CliHome) -> None:
    row = dataset(home)
    home.stoker("key", "destroy", row["kek"])
    home.stoker("key", "destroy", row["kek"], "--emergency", "--reason", "it must go", by="decider")
    assert dataset(home)["state"] == "destroyed"
    assert "is destroyed" in home.refused(DatasetEnded, "dataset", "expire", "text", "--now")
    assert "is destroyed" in home.refused(DatasetEnded, "dataset", "sample", "text", by="decider")
    (cleared,) = home.data("dataset", "gc")["collected"]
    assert cleared["because"] == "its key is destroyed"
    assert home.objects("datasets/text") == {}
    assert home.stoker("verify", code=0).code == 0


def test_gc_takes_nothing_from_a_run_and_everything_once_it_has_ended(home: CliHome) -> None:
    process = home.start("train", "run.toml", "train.steps=100000", "launch.ranks=1")
    wait_until(lambda: any(home.events(run, "step") for run in home.runs()), process)
    (run,) = home.runs()
    objects = home.objects("datasets/text")
    assert home.data("dataset", "show", "text")["uses"][0]["outcome"] == "running"
    home.stoker("dataset", "expire", "text", "--now", by="decider")
    (kept,) = home.data("dataset", "gc", "--older-than", "0")["kept"]
    assert kept["why"] == f"run {run} reads it"
    assert home.objects("datasets/text") == objects
    steps = len(home.events(run, "step"))
    wait_until(lambda: len(home.events(run, "step")) > steps, process)
    os.killpg(process.pid, signal.SIGINT)
    ended(process)
    home.stoker("dataset", "gc", "--older-than", "0")
    assert home.objects("datasets/text") == {}
    assert home.log_holds()


def test_a_killed_gc_is_finished_by_the_next(home: CliHome) -> None:
    """SIGKILL as soon as the act is on record: the objects go one by one on a slow disk."""
    home.stoker("dataset", "expire", "text", "--now")
    process = home.start("dataset", "gc", "--older-than", "0", slow_s=0.2)
    wait_until(lambda: _collected(home), process)
    process.kill()
    process.communicate()
    home.stoker("dataset", "gc", "--older-than", "0")
    assert home.objects("datasets/text") == {}
    (row,) = home.data("dataset", "ls", "--all")["datasets"]
    assert row["state"] == "collected"
    assert home.acts().count("dataset.collect") == 1
    assert home.log_holds()


def _collected(home: CliHome) -> bool:
    path: Path = home.root / "ledger.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute("SELECT state FROM dataset").fetchone() == ("collected",)
