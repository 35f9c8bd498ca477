"""The life of a node: what takes it out of use, what brings it back, and what holds under any order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.core.node_settings import Severity
from stoker.fleet.nodes.node_machine import TABLE, transition, validate
from stoker.fleet.nodes.node_state import (
    Blamed,
    Checked,
    Drain,
    EndJobs,
    Event,
    Instruction,
    JobsGone,
    NodeLost,
    NodePolicy,
    NodeState,
    Overrule,
    Phase,
    PlaceAgain,
    Resume,
    RunChecks,
    SeenFinding,
    StopPlacing,
)

POLICY = NodePolicy(passes_to_return=2, passes_to_clear=3)
CHECKS = ("gpu_xid", "disk_space", "zombies")
ALL = frozenset(CHECKS)
EVICT, DRAIN = Severity.EVICT_NOW, Severity.DRAIN_AFTER


def clean(now_s: float = 0.0, ok: frozenset[str] = ALL) -> Checked:
    return Checked(now_s, (), ok)


def seen(check: str, severity: Severity | None, now_s: float = 0.0) -> Checked:
    return Checked(now_s, (SeenFinding(check, severity, "because"),), ALL - {check})


def drive(state: NodeState, *events: Event) -> tuple[NodeState, list[Instruction]]:
    """The state after all events, and the instructions of the last one."""
    instructions: list[Instruction] = []
    for each in events:
        state, instructions = transition(POLICY, state, each)
        validate(POLICY, state)
    return state, instructions


def phase_after(*events: Event) -> Phase:
    return drive(NodeState(), *events)[0].phase


def test_a_failure_drains_after_or_evicts_now_with_its_evidence() -> None:
    state, instructions = drive(NodeState(), seen("disk_space", DRAIN, 5.0))
    assert (state.phase, instructions) == (Phase.DRAINING, [StopPlacing("disk_space: because")])
    assert [(each.source, each.evidence, each.since_s) for each in state.reasons] == [
        ("disk_space", "because", 5.0)
    ]
    state, instructions = drive(NodeState(), seen("gpu_xid", EVICT))
    assert state.phase is Phase.OUT
    assert instructions == [StopPlacing("gpu_xid: because"), EndJobs("gpu_xid: because")]


def test_a_worse_finding_while_draining_ends_the_jobs() -> None:
    state, instructions = drive(NodeState(), seen("disk_space", DRAIN), seen("gpu_xid", EVICT))
    assert state.phase is Phase.OUT
    assert instructions == [EndJobs("disk_space: because; gpu_xid: because")]


def test_a_warning_makes_a_suspect_that_takes_work_and_is_cleared_by_three_reports() -> None:
    state, _ = drive(NodeState(), seen("zombies", None))
    assert (state.phase, state.takes_work) == (Phase.SUSPECT, True)
    assert drive(state, clean(), clean())[0].phase is Phase.SUSPECT
    assert drive(state, clean(), clean(), clean())[0] == NodeState()
    assert drive(state, clean(), clean(), seen("zombies", None), clean())[0].phase is Phase.SUSPECT


def test_silence_is_evidence_only_the_second_time_in_a_row() -> None:
    def late(check: str) -> Checked:
        return Checked(0.0, (SeenFinding(check, DRAIN, "no answer", answered=False),), ALL - {check})

    assert phase_after(late("disk_space")) is Phase.SUSPECT
    assert phase_after(late("disk_space"), late("gpu_xid")) is Phase.SUSPECT
    assert phase_after(late("disk_space"), clean(), late("disk_space")) is Phase.SUSPECT
    assert phase_after(late("disk_space"), late("disk_space")) is Phase.DRAINING
    drained = [seen("disk_space", DRAIN), JobsGone(1.0)]
    assert phase_after(*drained, clean(), late("gpu_xid")) is Phase.DRAINED


def test_a_culprit_is_looked_over() -> None:
    state, instructions = drive(NodeState(), Blamed(1.0, "rank 3 did not enter the collective"))
    assert (state.phase, instructions) == (Phase.SUSPECT, [RunChecks()])


def test_it_returns_only_after_two_reports_without_a_finding_and_never_while_jobs_are_there() -> None:
    drained = [seen("disk_space", DRAIN), JobsGone(1.0)]
    assert phase_after(seen("disk_space", DRAIN), clean(), clean(), clean()) is Phase.DRAINING
    assert phase_after(*drained, clean()) is Phase.RETURNING
    state, instructions = drive(NodeState(), *drained, clean(), clean())
    assert (state, instructions) == (NodeState(), [PlaceAgain()])
    assert phase_after(*drained, clean(), seen("zombies", None), clean()) is Phase.RETURNING


def test_a_check_that_sees_nothing_any_more_is_no_pass() -> None:
    """A GPU that fell off the bus takes its own checks with it."""
    drained = [seen("gpu_xid", EVICT), JobsGone(1.0)]
    blind = clean(2.0, ok=frozenset({"disk_space", "zombies"}))
    assert phase_after(*drained, blind, blind, blind) is Phase.DRAINED
    assert phase_after(*drained, clean(), blind) is Phase.DRAINED


def test_what_a_person_took_out_only_a_person_brings_back() -> None:
    taken = [Drain(0.0, "eve", "new firmware"), JobsGone(1.0)]
    assert phase_after(*taken, clean(), clean(), clean()) is Phase.DRAINED
    state, instructions = drive(NodeState(), *taken, Resume(2.0, "eve", "done"))
    assert (state.phase, instructions) == (Phase.DRAINED, [RunChecks()])
    assert drive(state, clean(), clean())[0].phase is Phase.HEALTHY
    assert drive(state, seen("gpu_xid", EVICT), clean())[0].phase is Phase.RETURNING


def test_draining_at_once_ends_the_jobs() -> None:
    _, instructions = drive(NodeState(), Drain(0.0, "eve", "smoke", now=True))
    assert instructions == [StopPlacing("person: smoke"), EndJobs("person: smoke")]


def test_a_drain_that_is_taken_back_before_the_node_is_empty_disturbs_nobody() -> None:
    state, instructions = drive(NodeState(), Drain(0.0, "eve", "x"), Resume(1.0, "eve", "not this one"))
    assert (state, instructions) == (NodeState(), [PlaceAgain(), RunChecks()])
    both = [Drain(0.0, "eve", "x"), seen("disk_space", DRAIN), Resume(1.0, "eve", "y")]
    assert phase_after(*both) is Phase.DRAINING


def test_a_lost_node_is_out_and_any_report_of_it_proves_that_it_answers() -> None:
    lost = [NodeLost(0.0, "no heartbeat for 30 s"), JobsGone(1.0)]
    assert phase_after(lost[0]) is Phase.OUT
    assert phase_after(*lost, clean(), clean()) is Phase.HEALTHY
    assert phase_after(*lost, clean(), NodeLost(3.0, "again"), clean()) is Phase.RETURNING


def test_a_person_overrules_a_check_for_a_time() -> None:
    drained = [seen("disk_space", DRAIN), JobsGone(1.0)]
    state, instructions = drive(NodeState(), *drained, Overrule(2.0, "eve", "known", until_s=100.0))
    assert (state.phase, instructions) == (Phase.HEALTHY, [PlaceAgain()])
    assert drive(state, seen("disk_space", DRAIN, 99.0))[0].phase is Phase.HEALTHY
    assert drive(state, seen("gpu_xid", EVICT, 99.0))[0].phase is Phase.OUT
    assert drive(state, seen("disk_space", DRAIN, 101.0))[0].phase is Phase.DRAINING
    assert drive(state, clean(101.0))[0] == NodeState()


@pytest.mark.parametrize("phase", list(Phase))
def test_what_the_table_does_not_name_changes_nothing(phase: Phase) -> None:
    state = NodeState(phase, passes=1 if phase is Phase.RETURNING else 0)
    words = (0.0, "eve", "x")
    said = [Drain(*words), Resume(*words), Overrule(*words, until_s=1.0)]
    events = [clean(), Blamed(0.0, "x"), NodeLost(0.0, "x"), JobsGone(0.0), *said]
    for each in events:
        if (phase, type(each)) not in TABLE:
            assert transition(POLICY, state, each) == (state, [])


FINDINGS = st.lists(
    st.builds(
        SeenFinding,
        st.sampled_from(CHECKS),
        st.sampled_from([None, DRAIN, EVICT]),
        st.just("e"),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda each: each.check,
)


class NodeLife(RuleBasedStateMachine):
    """Any order of events: work goes only where it may, and what was found is mended before a return."""

    def __init__(self) -> None:
        super().__init__()
        self.state = NodeState()
        self.now_s = 0.0
        self.open: set[str] = set()
        self.held = False
        self.clean_in_row = 0
        self.placing = True

    def give(self, event: Event) -> None:
        before = self.state
        self.state, instructions = transition(POLICY, before, event)
        kinds = [type(each) for each in instructions]
        assert (StopPlacing in kinds) == (before.takes_work and not self.state.takes_work)
        assert (PlaceAgain in kinds) == (not before.takes_work and self.state.takes_work)
        assert (EndJobs in kinds) == (self.state.phase is Phase.OUT and before.phase is not Phase.OUT)
        assert not (PlaceAgain in kinds and EndJobs in kinds)
        if PlaceAgain in kinds and isinstance(event, Checked):
            assert self.clean_in_row >= POLICY.passes_to_return
            assert not self.open
            assert not self.held
        if self.state.takes_work:
            self.open, self.held = set(), False

    @rule(findings=FINDINGS, blind=st.sets(st.sampled_from(CHECKS)), later=st.floats(0, 50))
    def report(self, findings: Sequence[SeenFinding], blind: set[str], later: float) -> None:
        self.now_s += later
        silent = {each.check for each in self.state.overruled if each.until_s > self.now_s}
        ok = ALL - {each.check for each in findings} - blind
        heard = [each for each in findings if each.check not in silent]
        self.open |= {each.check for each in heard if each.severity is not None and each.answered}
        self.open -= ok | silent if not heard else set()
        self.clean_in_row = 0 if heard else self.clean_in_row + 1
        self.give(Checked(self.now_s, tuple(findings), ok))

    @rule(event=st.sampled_from([JobsGone, Blamed, NodeLost]))
    def happens(self, event: type[Event]) -> None:
        self.give(JobsGone(self.now_s) if event is JobsGone else event(self.now_s, "why"))  # type: ignore[call-arg]

    @rule(now=st.booleans(), by=st.sampled_from(["eve", "bob"]))
    def drain(self, now: bool, by: str) -> None:
        self.held = True
        self.give(Drain(self.now_s, by, "why", now))

    @rule()
    def resume(self) -> None:
        if (self.state.phase, Resume) in TABLE:
            self.held = False
        self.give(Resume(self.now_s, "eve", "why"))

    @rule(days=st.floats(0, 100))
    def overrule(self, days: float) -> None:
        self.give(Overrule(self.now_s, "eve", "why", self.now_s + days))

    @invariant()
    def holds(self) -> None:
        validate(POLICY, self.state)
        assert self.state.held_by_a_person == self.held


NodeLife.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestNodeLife = NodeLife.TestCase


def test_states_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeState().passes = 1  # type: ignore[misc]
