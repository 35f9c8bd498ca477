"""How earlier lives of a job ended, from accounting, where its journal does not say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stoker.fleet.errors import LauncherSilent
from stoker.fleet.goodput import TimeKind, account
from stoker.fleet.job_journal import append_event, read_journal
from stoker.fleet.launchers import JobEvent, JobId, JobState
from stoker.fleet.slurm.answers import read_accounts
from stoker.fleet.slurm.earlier_lives import note_earlier_lives
from stoker.fleet.slurm.job_folder import JobFolder
from support.run_events import Story

ANSWERS = Path(__file__).parent / "slurm_answers/sacct-all.txt"
JOB = JobId("10")


def answered(job: JobId) -> Sequence[JobEvent]:
    """What a real Slurm's accounting said of it: pre-empted, and queued again."""
    lines = [line for line in ANSWERS.read_text().splitlines() if line.startswith(f"{job}|")]
    return read_accounts("\n".join(lines) + "\n", job)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "slurm").make()


def life(restarts: int) -> dict[str, str]:
    return {"SLURM_JOB_ID": JOB, "SLURM_RESTART_COUNT": str(restarts)}


def test_a_later_life_notes_once_that_the_one_before_was_preempted(folder: JobFolder) -> None:
    ran, ended = answered(JOB)
    append_event(folder.journal, ran)
    for _ in range(2):
        note_earlier_lives(folder, life(1), answered)
        assert read_journal(folder.journal) == (ran, ended)
    assert (ended.state, ended.node) == (JobState.PREEMPTED, "node2")


def test_the_time_until_it_ran_again_is_then_a_preemption(folder: JobFolder) -> None:
    ran, ended = answered(JOB)
    append_event(folder.journal, ran)
    note_earlier_lives(folder, life(1), answered)
    append_event(folder.journal, JobEvent(ended.at_s + 100.0, JOB, JobState.RUNNING, "node1", restarts=1))
    story = Story(now_s=ran.at_s + 2.0).begin().start_attempt(0, ready_after_s=1.0)
    story.now_s = ended.at_s + 101.0
    story.begin()
    seconds = account(story.events, jobs=read_journal(folder.journal)).seconds
    assert seconds[TimeKind.PREEMPTION] == pytest.approx(100.0)


@pytest.mark.parametrize("environment", [{}, life(0), {**life(1), "SLURM_RESTART_COUNT": "?"}])
def test_accounting_is_not_asked_where_there_was_no_earlier_life(
    folder: JobFolder, environment: dict[str, str]
) -> None:
    def never(job: JobId) -> Sequence[JobEvent]:
        raise AssertionError("asked")

    note_earlier_lives(folder, environment, never)
    append_event(folder.journal, JobEvent(1.0, JOB, JobState.NODE_LOST, "node2"))
    note_earlier_lives(folder, life(1), never)
    assert len(read_journal(folder.journal)) == 1


def test_a_slurm_that_does_not_answer_keeps_no_run_waiting(folder: JobFolder) -> None:
    def silent(job: JobId) -> Sequence[JobEvent]:
        raise LauncherSilent("sacct does not answer.", hint="Wait.")

    note_earlier_lives(folder, life(1), silent)
    assert read_journal(folder.journal) == ()
