"""Promises 5, 6 and 7 broken on purpose: what a run told is changed, cut, or does not fit the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from stoker.core.atomic import exclusive
from stoker.core.isolation import Isolation, IsolationState
from stoker.ledger.records import RunOutcome
from stoker.promises.acts import Acts
from stoker.promises.isolation import check_isolation
from stoker.promises.live_probe import probe_now
from stoker.promises.promise import Standing
from stoker.promises.runs import ToldRun
from support.ledger_samples import tamper
from support.promise_home import RUN, PromiseHome, broken, failures, promise

Events: TypeAlias = list[dict[str, Any]]


def rewrite(house: PromiseHome, change: Callable[[Events], Events | None]) -> None:
    """Let `change` alter the run's events, in place or by a new list."""
    path = house.run_folder.events
    events: Events = [json.loads(line) for line in path.read_text().splitlines()]
    changed = change(events)
    path.write_text("".join(json.dumps(each) + "\n" for each in (events if changed is None else changed)))


def places(events: Events, kind: str, **fields: Any) -> list[int]:
    found = [
        place
        for place, event in enumerate(events)
        if event["kind"] == kind and all(event[name] == value for name, value in fields.items())
    ]
    assert found, f"no {kind} with {fields}"
    return found


def dropping(kind: str, which: int = 0, **fields: Any) -> Callable[[Events], None]:
    """Take out one event of that kind."""

    def change(events: Events) -> None:
        del events[places(events, kind, **fields)[which]]

    return change


def setting(kind: str, which: int = 0, *, to: dict[str, Any], **fields: Any) -> Callable[[Events], None]:
    """Give one event of that kind other fields."""

    def change(events: Events) -> None:
        events[places(events, kind, **fields)[which]].update(to)

    return change


def moving(kind: str, behind: str, **fields: Any) -> Callable[[Events], None]:
    """Put one event behind the first of another kind of the same attempt."""

    def change(events: Events) -> None:
        event = events.pop(places(events, kind, **fields)[0])
        events.insert(places(events, behind, **fields)[0] + 1, event)

    return change


ISOLATION: dict[str, tuple[Callable[[Events], None], str]] = {
    "no probe": (dropping("isolation_probed", attempt=2), "attempt 2, had its keys while never probed"),
    "a way out": (
        setting("isolation_probed", to={"state": "open", "reason": "reached: UDP"}, attempt=1),
        "attempt 1, had its keys while open",
    ),
    "isolation was refused": (
        setting("isolation_probed", to={"state": "refused"}, attempt=2),
        "attempt 2, had its keys while refused",
    ),
    "a state that nobody knows": (
        setting("isolation_probed", to={"state": "splendid"}, attempt=2),
        "attempt 2, had its keys while splendid",
    ),
    "ready before the probe": (
        moving("isolation_probed", "rank_ready", attempt=1),
        "attempt 1, had its keys while never probed",
    ),
    "spawned before the probe": (
        moving("isolation_probed", "rank_spawned", attempt=2),
        "attempt 2, had its keys while never probed",
    ),
}


@pytest.mark.parametrize("name", ISOLATION)
def test_keys_without_a_good_probe_before_are_named(name: str, house: PromiseHome) -> None:
    change, why = ISOLATION[name]
    rewrite(house, change)
    report = house.verify(5)
    assert broken(report) == {5}
    assert f"run {house.run.id}, {why}" in failures(report, 5)[0].seen


def test_a_probe_that_finds_a_way_out_later_is_named_too(house: PromiseHome) -> None:
    def change(events: Events) -> None:
        probe = dict(events[places(events, "isolation_probed", attempt=2)[0]], state="open")
        events.insert(places(events, "rank_ready", attempt=2)[-1], probe)

    rewrite(house, change)
    assert "attempt 2, had its keys while open" in failures(house.verify(5), 5)[0].seen


def test_an_attempt_that_the_log_leased_keys_to_and_the_events_hide_is_named(house: PromiseHome) -> None:
    rewrite(house, lambda events: [event for event in events if event["attempt"] != 2])
    assert "attempt 2, was leased its keys while never probed" in failures(house.verify(5), 5)[0].seen


def test_a_probe_of_this_moment_is_part_of_the_promise(house: PromiseHome) -> None:
    told = ToldRun(house.run, RUN, (), (), 0, "")
    acts = Acts(0.0, {}, {}, (), frozenset())
    for state, standing in (
        (IsolationState.ISOLATED, Standing.KEPT),
        (IsolationState.OPEN, Standing.NOT_KEPT),
        (IsolationState.REFUSED, Standing.NOT_KEPT),
    ):
        report = check_isolation((told,), acts, Isolation(state, "as told"))
        assert report.standing is standing
        assert report.checks[-1].seen == f"{state}: as told"


def test_the_live_probe_is_isolated_where_agents_are(house: PromiseHome) -> None:
    states = {IsolationState(event["state"]) for event in told_events(house, "isolation_probed")}
    assert {probe_now().state} == states == {IsolationState.ISOLATED}


def told_events(house: PromiseHome, kind: str) -> Events:
    lines = house.run_folder.events.read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


STEPS: dict[str, tuple[Callable[[Events], None], str]] = {
    "a skipped step": (dropping("step", step=5), "did step 6 where 5 was due"),
    "a step twice in one attempt": (setting("step", to={"step": 1}, step=2), "did step 1 where 2 was due"),
    "a repeated step with another loss": (
        setting("step", to={"loss": 3.34}, step=3, attempt=2),
        "gave the loss 3.3333333333333335 in step 3, then 3.34",
    ),
    "a repeated step that became NaN": (
        setting("step", to={"loss": math.nan}, step=3, attempt=2),
        "gave the loss 3.3333333333333335 in step 3, then nan",
    ),
    "going on from an older commit": (
        setting("attempt_started", to={"resume_step": 0}, attempt=2),
        "went on from step 0 in attempt 2, last commit 2",
    ),
    "going on from a step that was never committed": (
        setting("attempt_started", to={"resume_step": 3}, attempt=2),
        "went on from step 3 in attempt 2, last commit 2",
    ),
    "a commit of another step than was done": (
        setting("checkpoint_committed", to={"step": 5}, step=6),
        "committed step 5 where step 6 was done",
    ),
    "a commit that the ledger has and the events hide": (
        dropping("checkpoint_committed", step=4),
        "never told of the checkpoint of step 4",
    ),
    "another checkpoint than the ledger has": (
        setting("checkpoint_committed", to={"digest": "0" * 64}, step=4),
        "never told of the checkpoint of step 4",
    ),
    "an end that is missing": (dropping("step", step=6), "is recorded as finished after step 5 of 6"),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_do_not_follow_each_other_are_named(name: str, house: PromiseHome) -> None:
    change, why = STEPS[name]
    rewrite(house, change)
    report = house.verify(6)
    assert broken(report) == {6}
    assert f"run {house.run.id} {why}" in failures(report, 6)[0].seen


def test_a_commit_that_nobody_recorded_before_a_crash_is_not_held_against_the_run(house: PromiseHome) -> None:
    """The supervisor died between a commit and its record: the next attempt goes on from the one before."""

    def change(events: Events) -> None:
        last = dict(events[places(events, "step", step=3, attempt=1)[0]], step=4, loss=2.5)
        commit = dict(events[places(events, "checkpoint_committed", step=4)[0]], attempt=1, digest="9" * 64)
        place = places(events, "step", step=3, attempt=1)[0]
        events[place + 1 : place + 1] = [last, commit]

    rewrite(house, change)
    assert broken(house.verify(6)) == set()


def test_a_run_recorded_as_finished_without_its_last_checkpoint_is_named(house: PromiseHome) -> None:
    tamper(house.home.root, "DELETE FROM checkpoint WHERE step = 6")
    assert "is recorded as finished without a checkpoint of step 6" in failures(house.verify(6), 6)[0].seen


def reopen(house: PromiseHome) -> None:
    tamper(house.home.root, "UPDATE run SET outcome = 'running', ended_s = NULL")


def test_a_run_that_nobody_supervises_any_more_is_named(house: PromiseHome) -> None:
    reopen(house)
    (check,) = failures(house.verify(6), 6)
    assert check.seen == f"abandoned: {house.run.id}; go on with: stoker run resume"


def test_a_run_between_two_attempts_is_not_abandoned(house: PromiseHome) -> None:
    reopen(house)
    with exclusive(house.home.locks_dir / f"run-{house.run.id}.lock", "the run"):
        assert broken(house.verify(6)) == set()


def test_a_running_run_whose_folder_is_gone_is_named_by_every_check_that_needs_it(house: PromiseHome) -> None:
    reopen(house)
    house.run_folder.path.rename(house.outside / "moved away")
    report = house.verify(5, 6, 7)
    assert broken(report) == {5, 6, 7}
    for number in (5, 6, 7):
        assert "its events are gone from" in failures(report, number)[0].seen
    assert f"abandoned: {house.run.id}" in failures(report, 6)[1].seen


FIGURES: dict[str, tuple[Callable[[Events], Any], str]] = {
    "the end cut": (lambda events: events[:-1], "its events are cut before its end"),
    "half of it cut": (lambda events: events[: len(events) // 2], "its events are cut before its end"),
    "the beginning cut": (lambda events: events[1:], "its events do not begin with its beginning"),
    "another end": (
        setting("run_ended", to={"outcome": "cancelled"}),
        "its events end with cancelled, the ledger with finished",
    ),
    "another plan": (setting("run_started", to={"steps": 5}), "it tells of 5 planned steps, the ledger of 6"),
    "a figure that cannot be": (
        setting("evaluation", to={"bits_per_byte": -1.0}),
        "model has -1.0 bits a byte on 100 bytes",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_from_events_that_are_not_whole_are_named(name: str, house: PromiseHome) -> None:
    change, why = FIGURES[name]
    rewrite(house, change)
    report = house.verify(7)
    assert broken(report) == {7}
    assert f"run {house.run.id}: {why}" in failures(report, 7)[0].seen


def test_a_better_figure_written_into_the_events_afterwards_is_noticed(house: PromiseHome) -> None:
    rewrite(house, setting("evaluation", to={"bits_per_byte": 0.5}))
    report = house.verify(7)
    assert broken(report) == {7}
    (failure,) = failures(report, 7)
    assert failure.seen == f"run {house.run.id}: its events were changed after its end"
    with house.ledger.act(actor="asker", action="run.resume", subject=f"run/{house.run.id}", detail={}):
        pass
    assert broken(house.verify(7)) == set()


@pytest.mark.parametrize("kind", ["evaluation", "heartbeat"])
def test_a_line_that_was_garbled_without_a_crash_is_named(kind: str, house: PromiseHome) -> None:
    path = house.run_folder.events
    lines = path.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if f'"{kind}"' in line)
    lines[place] = lines[place][:40] + "\n"
    path.write_text("".join(lines))
    seen = failures(house.verify(7), 7)[0].seen
    assert seen == f"run {house.run.id}: 1 lines of its events are cut, and no supervisor of it crashed"


def test_a_line_that_a_crash_cut_is_said_and_not_held_against_the_run(house: PromiseHome) -> None:
    """A first supervisor left no end and half a line; the one after it finished."""
    path = house.run_folder.events
    first = path.read_text().splitlines(keepends=True)[0]
    path.write_text(first + '{"ts": 17\n' + path.read_text())
    digest = {"events_sha256": house.run_folder.events_digest()}
    with house.ledger.act(actor="asker", action="run.end", subject=f"run/{house.run.id}", detail=digest):
        pass
    report = house.verify(7)
    assert broken(report) == set()
    assert "1 lines were cut by a crash" in promise(report, 7).checks[0].seen


UNREADABLE: dict[str, tuple[Callable[[PromiseHome], Any], str]] = {
    "gone": (lambda house: house.run_folder.events.unlink(), "its events are gone from"),
    "a folder": (
        lambda house: (house.run_folder.events.unlink(), house.run_folder.events.mkdir()),
        "cannot be read: Is a directory",
    ),
    "not an event": (lambda house: house.run_folder.events.write_text("{}\n"), "line 1"),
    "another run's": (
        lambda house: rewrite(house, setting("step", to={"run": "r-00000000000000000000"})),
        "1 events in",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_events_that_cannot_be_judged_break_every_promise_that_rests_on_them(
    name: str, house: PromiseHome
) -> None:
    change, why = UNREADABLE[name]
    change(house)
    report = house.verify(5, 6, 7)
    assert broken(report) == {5, 6, 7}
    assert all(why in failures(report, number)[0].seen for number in (5, 6, 7))


def test_a_run_whose_recorded_settings_make_no_sense_is_named(house: PromiseHome) -> None:
    tamper(house.home.root, """UPDATE run SET spec = '{"train":7}'""")
    report = house.verify(6, 7)
    assert broken(report) == {6, 7}
    assert house.run.outcome is RunOutcome.FINISHED
    assert f"run {house.run.id}: " in failures(report, 7)[0].seen
