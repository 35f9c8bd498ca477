"""What bad input gets in training: run files, NaN, changed bytes, gone datasets, full disks, Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.core.errors import ConfigError, DiskFull
from stoker.fleet.errors import DatasetGone
from stoker.intake.errors import ReviewRevoked
from stoker.ledger.errors import UnknownDataset
from stoker.store.errors import CorruptStream
from stoker.train.checkpoint_errors import BadCommitLog
from stoker.train.watch.guard import NonFiniteLoss
from support.cli_home import DAY_S, CliHome, almost_full, ended, flip, small_disk, wait_until

HomeAt = Callable[[str], CliHome]

ALONE = ("launch.ranks=1",)
"""One rank is enough where it is not about ranks."""


def losses(home: CliHome, run: str) -> dict[int, list[float]]:
    """Every loss that was told of each step."""
    found: dict[int, list[float]] = {}
    for event in home.events(run, "step"):
        found.setdefault(event["step"], []).append(event["loss"])
    return found


def every_chunk(path: Path) -> range:
    """An offset in each chunk of a shard whose chunks have 2^14 bytes."""
    return range(8_000, path.stat().st_size, 1 << 14)


def test_every_mistake_of_a_run_file_is_named_with_the_nearest_key_and_nothing_starts(
    home_at: HomeAt,
) -> None:
    home = home_at("prepared")
    (home.place / "bad.toml").write_text(
        'dataset = "text"\n[model]\nlayer = 1\n[train]\nstep = 6\n[lunch]\nranks = 2\n'
    )
    before = home.contents()
    said = home.refused(ConfigError, "train", "bad.toml")
    assert "3 mistakes in the configuration:" in said
    assert "bad.toml: model.layer: unknown key; did you mean 'layers'?" in said
    assert "bad.toml: train.step: unknown key; did you mean 'steps'?" in said
    assert "bad.toml: lunch: unknown key; did you mean 'launch'?" in said
    error = home.refused_json(ConfigError, "train", "bad.toml", "launch.ranks=3", "model.width=31")
    assert "5 mistakes" in error["message"]
    assert "command line: model: width 31 is not divisible by heads 2" in error["message"]
    assert "launch.ranks 3; ranks must divide it" in error["message"]
    assert home.contents() == before
    assert home.runs() == []


def test_a_dataset_that_is_a_path_or_unknown_is_named_and_nothing_starts(home_at: HomeAt) -> None:
    home = home_at("prepared")
    before = home.contents()
    said = home.refused(UnknownDataset, "train", "run.toml", "dataset=../text")
    assert "There is no dataset '../text'." in said
    assert "'text'" in said
    assert home.contents() == before
    assert home.runs() == []


def test_a_dataset_that_is_over_destroyed_or_not_allowed_any_more_trains_nothing(home_at: HomeAt) -> None:
    home = home_at("cancelled")
    (run,) = home.runs()
    (dataset,) = home.data("dataset", "show", "text")["datasets"]
    for command in (("train", "run.toml"), ("run", "resume", run)):
        said = home.refused(DatasetGone, *command, ahead_s=31 * DAY_S)
        assert f"Dataset text ({dataset['version']}) expired at " in said
        assert "review of the source must be in force" in said
    home.stoker("review", "revoke", dataset["review"], "--reason", "asked to", by="decider")
    for command in (("train", "run.toml"), ("run", "resume", run)):
        assert "was revoked by decider: asked to." in home.refused(ReviewRevoked, *command)
    home.stoker("key", "destroy", dataset["kek"])
    home.stoker("key", "destroy", dataset["kek"], "--emergency", "--reason", "it must go", by="decider")
    said = home.refused(DatasetGone, "train", "run.toml")
    assert f"No version of dataset text lives; the newest, {dataset['version']}, is destroyed." in said
    assert "Prepare it again from its source." in said
    assert f"Dataset text ({dataset['version']}) is destroyed." in home.refused(
        DatasetGone, "run", "resume", run
    )
    assert home.runs() == [run]
    assert (home.data("run", "show", run))["outcome"] == "cancelled"


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(home_at: HomeAt) -> None:
    home = home_at("prepared")
    hot = ("train.learning_rate=1e30", "train.checkpoint_every_steps=1", "train.gradient_clip=1e30")
    hot += ("watch.on_bad_step=stop",)
    done = home.stoker("train", "run.toml", *ALONE, *hot, code=NonFiniteLoss.exit_code)
    (run,) = home.runs()
    report = home.data("run", "show", run)
    at = report["checkpoints"][-1]["step"]
    assert at >= 1
    assert f"non-finite-loss: Step {at + 1}: " in done.out
    assert (
        "Lower train.learning_rate or lengthen train.warmup_steps; the last checkpoint is kept." in done.out
    )
    assert f"step {at}\n" in done.out.partition("last checkpoint")[2]
    assert home.events(run, "restart_scheduled") == []
    assert [each["attempt"] for each in home.events(run, "attempt_started")] == [1]
    assert (report["outcome"], report["error"]["error_id"]) == ("failed", "non-finite-loss")
    shown = home.stoker("run", "show", run).out
    assert f"non-finite-loss: Step {at + 1}: " in shown
    assert f"the newest of step {at}" in shown
    assert len(list((home.store / "runs" / run / "checkpoints").iterdir())) == min(at, 2)
    assert home.processes() == {}


def test_a_shard_changed_in_the_store_is_refused_and_named(home_at: HomeAt) -> None:
    home = home_at("prepared")
    shards = home.shards("datasets/text")
    for shard in shards[:2]:
        flip(shard, *every_chunk(shard))
    done = home.stoker("train", "run.toml", *ALONE, code=CorruptStream.exit_code)
    assert "corrupt-stream: datasets/text/" in done.out
    assert any(f"{shard.relative_to(home.store)}, chunk " in done.out for shard in shards[:2])
    assert "Restore it from a copy." in done.out
    (run,) = home.runs()
    assert losses(home, run) == {}
    assert home.events(run, "restart_scheduled") == []


def test_a_shard_changed_in_the_cache_is_replaced_from_the_store(home_at: HomeAt) -> None:
    home = home_at("trained")
    (reference,) = home.runs()
    first, second = sorted((home.root / "cache/objects/datasets").rglob("*.stk"))[:2]
    clean = first.read_bytes(), second.read_bytes()
    flip(first, 30)  # in the header
    flip(second, *every_chunk(second))
    summary = home.data("train", "run.toml")
    assert losses(home, summary["run"]) == losses(home, reference)
    assert (first.read_bytes(), second.read_bytes()) == clean


def test_ctrl_c_in_training_ends_every_process_and_resume_goes_on_exactly(
    home_at: HomeAt, levels: Any
) -> None:
    reference = levels.home("trained")
    home = home_at("cancelled")
    cancelled = json.loads((home.place / "cancelled.json").read_text())
    answer = json.loads(cancelled["answer"])["data"]
    assert (cancelled["code"], answer["outcome"], answer["error"]) == (3, "cancelled", None)
    (run,) = home.runs()
    saved = answer["last_checkpoint_step"]
    assert 6 <= saved < 30
    assert home.events(run, "restart_scheduled") == []

    def starting() -> bool:
        return any(event["attempt"] == 2 for event in home.events(run, "rank_started"))

    assert home.interrupt("run", "resume", run, when=starting).code == 3
    assert home.data("run", "show", run)["outcome"] == "cancelled"
    summary = home.data("run", "resume", run)
    assert (summary["run"], summary["outcome"], summary["last_step"]) == (run, "finished", 30)
    assert home.events(run, "attempt_started")[-1]["resume_step"] == saved
    told = losses(home, run)
    expected = losses(reference, reference.runs()[0])
    assert sorted(told) == list(range(1, 31))
    assert {step: set(values) for step, values in told.items()} == {
        step: set(values) for step, values in expected.items()
    }
    assert home.processes() == {}
    assert home.log_holds()


def last_recorded(home: CliHome, run: str) -> str:
    """The number of the checkpoint that a run goes on from; a later one may lie there, cut off by Ctrl-C."""
    return f"{int(home.events(run, 'checkpoint_committed')[-1]['sequence']):08d}"


def test_a_changed_checkpoint_part_is_refused_and_named(home_at: HomeAt) -> None:
    home = home_at("cancelled")
    (run,) = home.runs()
    last = last_recorded(home, run)
    part = [each for each in home.shards(f"runs/{run}/checkpoints") if each.parent.name.startswith(last)][-1]
    flip(part, -500)
    before = home.contents()
    done = home.stoker("run", "resume", run, code=CorruptStream.exit_code)
    assert str(part.relative_to(home.store)) in done.out
    assert "error" in done.out
    assert home.events(run, "restart_scheduled") == []
    assert set(before.objects.items()) <= set(home.objects().items())


def test_a_changed_checkpoint_record_is_refused_and_named(home_at: HomeAt) -> None:
    home = home_at("cancelled")
    (run,) = home.runs()
    record = home.store / f"runs/{run}/log/{last_recorded(home, run)}.stk"
    flip(record, -500)
    before = home.contents()
    done = home.stoker("run", "resume", run, code=BadCommitLog.exit_code)
    assert str(record.relative_to(home.store)) in done.out
    assert home.contents().objects == before.objects


def test_a_disk_that_is_full_at_a_checkpoint_ends_the_run_and_it_goes_on_later(
    home_at: HomeAt, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", home_at("prepared")) as home:
        with almost_full(tmp_path / "disk", 300_000):
            done = home.stoker("train", "run.toml", *ALONE, code=DiskFull.exit_code)
        (run,) = home.runs()
        place = f"{home.store}/runs/{run}/checkpoints/"
        assert f"disk-full: No space is left on the file system that holds {place}" in done.out
        assert "Free some space" in done.out
        assert f"stoker run resume {run}" in done.out
        assert home.processes() == {}
        assert home.events(run, "restart_scheduled") == []
        assert home.contents().half_written == ()
        assert home.objects(f"runs/{run}/checkpoints") == {}
        summary = home.data("run", "resume", run)
        assert (summary["outcome"], summary["last_step"]) == ("finished", 30)
        assert home.log_holds()


def test_a_disk_that_fills_up_under_a_run_leaves_no_process_and_it_is_said_how_to_go_on(
    home_at: HomeAt, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", home_at("prepared")) as home:
        before = home.contents()
        with almost_full(tmp_path / "disk", 0):
            home.refused(DiskFull, "train", "run.toml")
        assert home.contents() == before
        assert home.runs() == []
        process = home.start("train", "run.toml", *ALONE)
        wait_until(lambda: any(home.events(run, "checkpoint_committed") for run in home.runs()), process)
        with almost_full(tmp_path / "disk", 0):
            done = ended(process)
        (run,) = home.runs()
        assert done.code == DiskFull.exit_code, done
        assert f"No space is left on the file system that holds {home.root}" in done.err
        assert f"To go on with this run: stoker run resume {run}" in done.err
        assert home.processes() == {}
        assert home.log_holds()
        shown = home.stoker("run", "show", run).out
        assert "running, but nothing supervises it" in shown
        assert f"stoker run resume {run}" in shown
