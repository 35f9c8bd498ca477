"""What is believed of a node's failures: the site's word, then what its own runs have been through."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.events import EventKind, EventLog
from stoker.core.ids import RunId
from stoker.fleet.failure_history import LOOKS_BACK_S, after_run, believed_rate
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import RunOutcome, RunRecord
from stoker.spec.reliability import DAY_S, FailureRate
from stoker.spec.run import CheckpointEvery
from support.run_events import Story
from support.run_house import SPEC, run_house

K = EventKind
PRIOR = FailureRate.prior(6.5)


def failing(days: float, **why: str) -> Story:
    """One attempt of some days that failed."""
    story = Story().begin().start_attempt(0, ready_after_s=1.0)
    story.tell(K.RANK_EXITED, after_s=days * DAY_S, rank=0, signal=9)
    return story.tell(K.ATTEMPT_ENDED, outcome="failed", **why)


def test_failures_of_the_machine_count_and_those_of_users_or_on_purpose_do_not() -> None:
    rate = after_run(PRIOR, failing(10.0, failure_kind="hardware", component="gpu").events)
    assert rate.failures == 2.0
    assert rate.node_s == pytest.approx(PRIOR.node_s + 10 * DAY_S, abs=10.0)
    assert after_run(PRIOR, failing(1.0, failure_kind="user_error").events).failures == 1.0
    injected = failing(1.0, failure_kind="system_software")
    injected.events.insert(2, Story().tell(K.FAULT_INJECTED, fault="kill_rank").events[0])
    assert after_run(PRIOR, injected.events).failures == 1.0
    assert after_run(PRIOR, []) == PRIOR


def test_runs_of_long_ago_and_those_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    now_s = 1e9
    records = []
    for number, ended_s in enumerate((now_s - 2 * LOOKS_BACK_S, now_s - DAY_S, now_s - DAY_S, None)):
        run = RunId(f"r-{number:020d}")
        folder = RunFolder.of(tmp_path, run)
        folder.path.mkdir()
        log = EventLog(folder.events)
        for event in failing(1.0, failure_kind="network").events:
            log.append(event)
        log.close()
        outcome = RunOutcome.RUNNING if ended_s is None else RunOutcome.FAILED
        records.append(
            RunRecord(run, "n", "text", "7" * 64, "rev-1", {}, "8" * 64, "k#1", "ada", 0.0, ended_s, outcome)  # type: ignore[arg-type]
        )
    RunFolder.of(tmp_path, records[2].id).events.write_bytes(b'{"kind": "unheard_of"}\n')
    assert believed_rate(PRIOR, tmp_path, records, now_s).failures == 2.0


def test_a_job_carries_what_is_believed_only_where_the_run_asks_for_it(tmp_path: Path) -> None:
    auto = replace(SPEC, train=replace(SPEC.train, checkpoint_every=CheckpointEvery.AUTO))
    with run_house(tmp_path) as house:
        for spec, least_s in ((SPEC, 0.0), (auto, DAY_S)):
            run = house.start(spec, failures_per_1000_node_days=100.0).run
            job = json.loads(RunFolder.of(house.home.runs_dir, run).job(1).read_text())
            assert (job["mttf_s"] > least_s) == (spec is auto)
            if spec is auto:
                assert job["mttf_s"] == pytest.approx(10 * DAY_S, rel=0.01)
