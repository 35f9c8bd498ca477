"""A run's figures as W&B's own reader finds them in its offline file, without a network."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.canonical import JsonValue
from stoker.core.events import Event, EventKind
from stoker.core.ids import RunId
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.wandb_log import BLOCK_BYTES, WandbLog, WandbRun, framed, wandb_run, write_wandb
from stoker.spec.run import RunSpec
from support.run_events import an_event
from support.run_house import SPEC, run_house

K = EventKind
RUN = WandbRun("r-0123", "a run", {"train": {"steps": 2}, "purpose": "research"})

READER = """
import os, sys
from stoker.core.isolation import IsolationState, isolate
assert isolate(loopback=False).state is IsolationState.ISOLATED
os.execv(sys.executable, [sys.executable, "-m", "wandb", "leet", "inspect", "--json", sys.argv[1]])
"""
"""W&B's reader in a network without even loopback."""


def step(number: int, loss: float, **more: JsonValue) -> Event:
    told: dict[str, JsonValue] = {"step": number, "loss": loss, "lr": 0.01, "grad_norm": 1.5, "tokens": 100}
    return an_event(K.STEP, 1e9 + number, rank=0, **{**told, "step_s": 0.5, "data_wait_s": 0.0, **more})


def ended(outcome: str) -> Event:
    return an_event(K.RUN_ENDED, 1e9 + 9, outcome=outcome)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("offline-run-*/run-*.wandb"))


def read(file: Path, home: Path) -> list[dict[str, Any]]:
    """Every record, as W&B's own program reads them."""
    environment = {**os.environ, "HOME": str(home), "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["history"]["item"] for each in records if each["type"] == "history"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("wandb")
    events = [
        step(1, 3.0, mfu=0.25),
        step(2, math.nan, loss_of={"text": 2.0}),
        step(1, 2.75),  # done again, after a restart
        an_event(K.EVALUATION, 1e9 + 4, rank=0, name="model", bits_per_byte=1.4, bytes=10, seconds=1.0),
        an_event(K.STEP, 1e9 + 5, rank=1, **dict(step(9, 9.0).fields)),
        ended("finished"),
    ]
    assert write_wandb(events, folder / "wandb", RUN) == 6 + 6 + 5 + 1
    (file,) = files(folder / "wandb")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return read(file, folder)


def test_wandbs_own_reader_finds_every_figure_at_its_step(told: list[dict[str, Any]]) -> None:
    assert [row["_step"] for row in rows(told)] == [0, 1, 2, 3]
    assert [row["step"] for row in rows(told)] == [1, 2, 1, 1]
    assert rows(told)[0]["train/loss"] == 3
    assert rows(told)[0]["speed/mfu"] == 0.25
    assert rows(told)[1]["train/loss"] == "NaN"
    assert rows(told)[1]["train/loss_of_text"] == 2
    assert rows(told)[3]["evaluate/model_bits_per_byte"] == 1.4
    assert [row["_timestamp"] - 1e9 for row in rows(told)] == [1, 2, 1, 4]


def test_it_finds_the_run_its_file_and_how_it_ended(told: list[dict[str, Any]]) -> None:
    by_type = {each["type"]: each for each in told}
    run = by_type["run"]["run"]
    assert (run["run_id"], run["display_name"], run["project"]) == ("r-0123", "a run", "stoker")
    assert run["config"]["update"] == {"train": {"steps": 2}, "purpose": "research"}
    assert "host" not in run
    metric = by_type["metric"]["metric"]
    assert (metric["glob_name"], metric["step_metric"]) == ("*", "step")
    assert by_type["summary"]["summary"]["update"]["evaluate/model_bits_per_byte"] == 1.4
    assert by_type["exit"]["exit"] == {"exit_code": 0}
    assert [each["num"] for each in told] == list(range(1, len(told) + 1))


def test_a_run_that_failed_or_goes_on_is_not_called_finished(tmp_path: Path) -> None:
    write_wandb([step(1, 2.0), ended("failed")], tmp_path / "failed", RUN)
    write_wandb([step(1, 2.0)], tmp_path / "open", RUN)
    (failed,), (left,) = (files(tmp_path / name) for name in ("failed", "open"))
    assert [each["exit"] for each in read(failed, tmp_path) if each["type"] == "exit"] == [{"exit_code": 1}]
    assert not [each for each in read(left, tmp_path) if each["type"] == "exit"]


def test_records_over_the_borders_of_blocks_are_read_whole(tmp_path: Path) -> None:
    """Long ones lie in three blocks, and short ones leave less room at a border than a head needs."""
    config: dict[str, JsonValue] = {"long": "x" * (2 * BLOCK_BYTES + 100)}
    log = WandbLog(tmp_path / "wandb", WandbRun("r", "n", config))
    for number in range(1, 400):
        log.take(step(number, number / 7))
    log.close()
    (file,) = files(tmp_path / "wandb")
    assert file.stat().st_size > 4 * BLOCK_BYTES
    found = read(file, tmp_path)
    (run,) = [each["run"] for each in found if each["type"] == "run"]
    assert run["config"]["update"] == config
    assert [row["train/loss"] for row in rows(found)] == pytest.approx([n / 7 for n in range(1, 400)])


def test_where_less_than_a_head_is_left_of_a_block_it_is_left_empty() -> None:
    pieces = list(framed(b"record", BLOCK_BYTES - 6))
    assert pieces[0] == bytes(6)
    assert len(pieces[1]) == 7 + 6
    exact = list(framed(b"record", BLOCK_BYTES - 7))
    assert [len(piece) for piece in exact] == [7, 13]


def test_a_second_supervisor_writes_a_second_run_and_without_figures_there_is_none(tmp_path: Path) -> None:
    for _ in range(2):
        log = WandbLog(tmp_path, RUN)
        log.take(step(1, 2.0))
        log.close()
    assert len(files(tmp_path)) == 2
    assert write_wandb([ended("finished")], tmp_path / "none", RUN) == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_a_supervisor_keeps_it_where_the_run_file_asks(tmp_path: Path, asked: bool) -> None:
    with run_house(tmp_path / "home") as house:
        summary = house.start(replace(SPEC, watch=replace(SPEC.watch, wandb=asked)))
        folder = RunFolder.of(house.home.runs_dir, summary.run)
    assert len(files(folder.wandb)) == int(asked)
    if asked:
        found = read(files(folder.wandb)[0], tmp_path)
        assert [row["step"] for row in rows(found)][:6] == [1, 2, 2, 3, 4, 4]
        assert found[-1]["exit"] == {"exit_code": 0}


def test_the_whole_run_file_is_told() -> None:
    told = wandb_run(RunId("r-1"), RunSpec(dataset="d", name="n"))
    assert (told.id, told.name) == ("r-1", "n")
    assert told.config["dataset"] == "d"
    assert isinstance(told.config["train"], dict)
