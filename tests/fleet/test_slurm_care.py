"""What is done for a job that is looked after, decided from what was seen; and the files that say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.core.config import Layer, load
from stoker.core.errors import BadEvent, ConfigError
from stoker.core.ids import RunId
from stoker.core.settings import Settings
from stoker.fleet.errors import BadRunFolder
from stoker.fleet.job_journal import append_event, read_journal
from stoker.fleet.launchers import JobEvent, JobId, JobState, JobView
from stoker.fleet.slurm.care import HUNG_FACTOR, Care, Seen, care_for
from stoker.fleet.slurm.job_folder import Holder, JobFolder, Sign, Submitted

AFTER_S = 4.0


def seen(state: JobState, *, restarts: int = 0, over: bool = False, **more: object) -> Seen:
    told = {"gave_signs": True, "silent_s": None, **more}
    return Seen(JobView(JobId("7"), state, restarts, "node1"), over, **told)


@pytest.mark.parametrize(
    ("what", "care"),
    [
        (seen(JobState.WAITING), Care.NOTHING),
        (seen(JobState.WAITING, restarts=1), Care.HASTEN),
        (seen(JobState.WAITING, restarts=1, over=True), Care.FORGET),
        (seen(JobState.RUNNING, silent_s=None), Care.NOTHING),
        (seen(JobState.RUNNING, silent_s=AFTER_S, node_answers=False), Care.NOTHING),
        (seen(JobState.RUNNING, silent_s=AFTER_S + 0.1), Care.NOTHING),
        (seen(JobState.RUNNING, silent_s=AFTER_S + 0.1, node_answers=False), Care.GIVE_UP_NODE),
        (seen(JobState.RUNNING, silent_s=AFTER_S + 0.1, node_answers=True), Care.NOTHING),
        (seen(JobState.RUNNING, silent_s=HUNG_FACTOR * AFTER_S + 0.1, node_answers=True), Care.REQUEUE),
        (seen(JobState.RUNNING, silent_s=99.0, node_answers=False, over=True), Care.NOTHING),
        (seen(JobState.ENDING, silent_s=99.0, node_answers=False), Care.NOTHING),
        (seen(JobState.UNKNOWN, silent_s=99.0, node_answers=False), Care.NOTHING),
        (seen(JobState.NODE_LOST), Care.REQUEUE),
        (seen(JobState.PREEMPTED), Care.REQUEUE),
        (seen(JobState.PREEMPTED, over=True), Care.FORGET),
        (seen(JobState.OUT_OF_TIME), Care.FORGET),
        (seen(JobState.FAILED), Care.FORGET),
        (seen(JobState.FAILED, restarts=1, gave_signs=False), Care.REQUEUE),
        (seen(JobState.CANCELLED), Care.FORGET),
        (seen(JobState.OUT_OF_MEMORY), Care.FORGET),
    ],
)
def test_what_was_seen_says_what_is_done(what: Seen, care: Care) -> None:
    assert care_for(what, AFTER_S) is care


def test_a_journal_is_read_as_far_as_its_lines_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_journal(path) == ()
    events = [JobEvent(float(number), JobId("7"), JobState.RUNNING, "node1", "why") for number in range(2)]
    for event in events:
        append_event(path, event)
    with path.open("ab") as file:
        file.write(b'{"at_s": 3.0, "job"')
    assert read_journal(path) == tuple(events)
    path.write_bytes(b'{"at_s": 3.0, "job": "7", "state": "molten"}\n')
    with pytest.raises(BadEvent, match="line 1"):
        read_journal(path)


def test_the_files_of_a_job_are_read_as_they_were_written_and_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "r-1").mkdir()
    folder = JobFolder.of(tmp_path, RunId("r-1")).make()
    assert (folder.submitted(), folder.holder(), folder.last_sign()) == (None, None, None)
    holder = Holder(JobId("7"), 1, "node1", 42)
    folder.record(Submitted(JobId("7"), 3.0))
    folder.take(holder)
    folder.sign(Sign(holder, 5))
    assert folder.submitted() == Submitted(JobId("7"), 3.0)
    assert folder.last_sign() == Sign(holder, 5) and folder.holder() == holder
    (folder.path / "holder.json").write_text('{"job": 7')
    with pytest.raises(BadRunFolder, match=r"holder\.json"):
        folder.holder()


@pytest.mark.parametrize("key", ["early_s", "lost_after_s", "spare_nodes", "switches"])
def test_settings_that_could_not_work_are_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"slurm.{key}"):
        load(Settings, [Layer("stoker.toml", {"slurm": {key: -1}})])
