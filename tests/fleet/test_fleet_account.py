"""Accounts of many runs: their sums, failures by size and component, and what formulas expect beside them."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.events import Event, EventKind, EventLog, read_events
from stoker.fleet.attribution import Attribution
from stoker.fleet.fleet_account import RunTime, fleet_goodput, rates_by_component, run_time
from stoker.fleet.goodput import account
from stoker.fleet.goodput_metrics import goodput_prometheus
from stoker.fleet.taxonomy import Component, FailureKind
from stoker.spec.reliability import DAY_S
from support.run_events import Story

K = EventKind
DATA = Path(__file__).parent.parent / "data/reliability"
GPU = Attribution(FailureKind.HARDWARE, Component.GPU, 0, "local", (), 0.9)
WRONG_FILE = Attribution(FailureKind.USER_ERROR, Component.RUN_FILE, 0, "local", (), 0.9)


def a_run(
    *, ranks: int = 2, nodes: int = 1, failures: tuple[Attribution, ...] = (), injected: int = 0
) -> list[Event]:
    """Steps of a second, a checkpoint of a tenth after every fourth; each failure costs three seconds."""
    story = Story().begin(steps=20)
    causes: list[Attribution | None] = [*failures, *[None] * injected]
    for cause in (*causes, GPU):
        story.attempt += 1
        resume = 4 * (story.attempt - 1)
        story.tell(K.ATTEMPT_STARTED, world_size=ranks, resume_step=resume, nodes=nodes)
        story.tell(K.RANK_READY, after_s=3.0, rank=0, resume_step=resume).steps(
            resume + 1, resume + 4, step_s=1.0
        )
        story.tell(K.CHECKPOINT_COMMITTED, after_s=0.1, rank=0, step=resume + 4, stall_s=0.1)
        if len(causes) >= story.attempt:
            if cause is None:
                story.tell(K.FAULT_INJECTED, fault="kill_rank")
            story.tell(K.RANK_EXITED, rank=0, signal=9)
            story.tell(K.ATTEMPT_ENDED, outcome="failed", **(cause or GPU).fields())
    return story.tell(K.ATTEMPT_ENDED, outcome="finished").tell(K.RUN_ENDED, outcome="finished").events


def timed(events: list[Event], run: str = "r-1", since_s: float = -math.inf) -> RunTime:
    return run_time(run, "small", events, since_s)


def test_a_run_tells_what_it_failed_of_and_its_means() -> None:
    found = timed(a_run(failures=(GPU, WRONG_FILE), injected=1))
    assert found.failures == (
        (FailureKind.HARDWARE, Component.GPU),
        (FailureKind.USER_ERROR, Component.RUN_FILE),
    )
    assert (found.injected, found.goodput.failures, found.world_size) == (1, 3, 2)
    assert (found.interval_s, found.write_s) == (4.0, pytest.approx(0.1))
    assert found.recovery_s == pytest.approx(3.0)


def test_a_fleets_seconds_are_those_of_its_runs_for_each_of_their_nodes() -> None:
    runs = [timed(a_run(nodes=4), "r-1"), timed(a_run(nodes=1, failures=(GPU,)), "r-2")]
    found = fleet_goodput(runs)
    walls = [run.goodput.wall_s * run.nodes for run in runs]
    assert math.fsum(found.node_seconds.values()) == pytest.approx(sum(walls))
    assert found.ettr is not None
    assert found.ettr == pytest.approx((4.0 * 4 + 8.0) / sum(walls))


def test_mttf_is_by_size_counts_only_the_fleets_failures_and_has_its_bounds() -> None:
    small, large = a_run(ranks=2, failures=(GPU, WRONG_FILE), injected=2), a_run(ranks=16)
    two, sixteen = fleet_goodput([timed(small, "r-1"), timed(small, "r-2"), timed(large, "r-3")]).by_size
    assert (two.least, two.most, two.runs, two.failures) == (2, 3, 2, 2)
    assert two.mttf_s == pytest.approx(two.alive_s / 2)
    assert two.low_s == pytest.approx(two.alive_s / 7.2247, rel=1e-4)
    assert two.high_s == pytest.approx(two.alive_s / 0.2422, rel=1e-3)
    assert (sixteen.least, sixteen.most, sixteen.failures) == (16, 31, 0)
    assert (sixteen.mttf_s, sixteen.high_s) == (None, None)
    assert sixteen.low_s == pytest.approx(sixteen.alive_s / 3.6889, rel=1e-4)


def test_llama_3s_interruptions_by_component_come_out_as_published() -> None:
    with (DATA / "llama3_table5_interruptions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {"GPU": (FailureKind.HARDWARE, Component.GPU), "Network": (FailureKind.NETWORK, Component.LINK)}
    failures = tuple(
        kinds.get(row["category"], (FailureKind.UNKNOWN, Component.NONE))
        for row in rows
        for _ in range(int(row["count"]))
    )
    story = Story().tell(K.RUN_STARTED, steps=1, world_size=16_384)
    story.tell(K.ATTEMPT_STARTED, world_size=16_384, resume_step=0, nodes=2_048)
    story.tell(K.RANK_READY, rank=0).tell(K.ATTEMPT_ENDED, after_s=54 * DAY_S, outcome="finished")
    run = timed(story.events)

    found = rates_by_component([replace(run, failures=failures)])
    assert sum(row.failures for row in found) == 419
    assert found[0].component is Component.GPU
    assert found[0].failures / 419 == pytest.approx(268 / 419)
    whole = sum(row.per_1000_node_days or 0.0 for row in found)
    assert whole == pytest.approx(3.79, abs=0.005)
    for row in found:
        assert row.low is not None
        assert row.high is not None
        assert row.per_1000_node_days is not None
        assert row.low < row.per_1000_node_days < row.high


def test_what_formulas_expect_says_when_they_are_out_of_their_range() -> None:
    often = fleet_goodput([timed(a_run(failures=(GPU, GPU)))]).expected[0]
    assert not often.within_range
    assert often.measured is not None
    assert often.closed != pytest.approx(often.exponential, abs=0.01)
    assert not often.assumed
    never = fleet_goodput([timed(a_run(failures=(GPU,)), "r-1"), timed(a_run(), "r-2")]).expected[1]
    assert never.assumed
    assert fleet_goodput([timed(a_run())]).expected == ()


def test_runs_that_were_not_alive_since_then_are_left_out() -> None:
    events = a_run()
    end_s = events[-1].ts
    found = fleet_goodput([timed(events, since_s=end_s - 2.0), timed(events, since_s=end_s + 5.0)])
    assert len(found.runs) == 1
    assert math.fsum(found.node_seconds.values()) == pytest.approx(2.0)


def test_prometheus_text_has_every_family_once_and_no_figure_that_is_unknown() -> None:
    found = fleet_goodput([timed(a_run(failures=(GPU,)), 'r-"1"\n')])
    lines = goodput_prometheus(found).splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == 6
    assert 'stoker_failures{kind="hardware",component="gpu"} 1' in lines
    assert any(
        line.startswith('stoker_run_seconds{run="r-\\"1\\"\\n",kind="productive"} 8') for line in lines
    )
    assert "None" not in "\n".join(lines)
    assert goodput_prometheus(fleet_goodput([])).count("\n") > 2


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.0, 40.0))
def test_a_file_that_was_cut_in_the_middle_of_a_line_gives_an_account_that_adds_up(
    tmp_path_factory: pytest.TempPathFactory, at: int, since_s: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "events.jsonl"
    log = EventLog(path)
    for event in a_run(failures=(GPU, WRONG_FILE), injected=1):
        log.append(event)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: at % (len(whole) + 1)])
    told = read_events(path)
    assert told.cut_lines <= 1
    for since in (-math.inf, since_s):
        goodput = account(told.events, since)
        assert math.isclose(sum(goodput.seconds.values()), goodput.wall_s, rel_tol=1e-9, abs_tol=1e-6)
        found = fleet_goodput([run_time("r", "n", told.events, since)])
        assert found.ettr is None or 0.0 <= found.ettr <= 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-5_000.0, 5_000.0), min_size=1, max_size=5))
def test_a_wall_clock_that_is_set_while_a_run_trains_changes_no_figure_of_it(moves_s: list[float]) -> None:
    events = a_run(failures=(GPU,))
    expected = account(events)
    moved = [
        Event(
            event.ts + moves_s[place * len(moves_s) // len(events)],
            event.mono_s,
            event.run,
            event.attempt,
            event.rank,
            event.node,
            event.kind,
            event.fields,
        )
        for place, event in enumerate(events)
    ]
    assert account(moved) == expected
    assert run_time("r", "n", moved).failures == run_time("r", "n", events).failures
