"""The run state machine: what each failure leads to, and what holds under any interleaving."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.core.errors import BadName, Busy
from stoker.core.events import Section
from stoker.fleet.machine import TABLE, back_off_s, can_be_mended, transition, validate
from stoker.fleet.places import Room
from stoker.fleet.run_state import (
    ALIVE,
    ENDED,
    AttemptOver,
    Begin,
    Cancel,
    Cause,
    CauseKind,
    Committed,
    EndRun,
    Exited,
    Gone,
    Heard,
    Input,
    Instruction,
    Leave,
    Named,
    NodeBack,
    NodeLost,
    Phase,
    Policy,
    Ready,
    Refused,
    ReportHang,
    RestartPlanned,
    RunState,
    StartAttempt,
    StopAttempt,
    Tick,
    begin_state,
)

POLICY = Policy(
    world_size=2,
    restarts=3,
    hang_after_s=60.0,
    start_within_s=180.0,
    retry_codes=frozenset({Busy.exit_code}),
    stop_grace_s=15.0,
)
KILL = 9


def drive(state: RunState, inputs: Sequence[Input]) -> tuple[RunState, list[Instruction]]:
    """The state after all inputs, and the instructions of the last one."""
    instructions: list[Instruction] = []
    for each in inputs:
        state, instructions = transition(POLICY, state, each)
        validate(POLICY, state)
    return state, instructions


def trained_until(now_s: float, attempt: int = 1) -> list[Input]:
    return [Ready(now_s, attempt, 0), Ready(now_s, attempt, 1)]


def beats(attempt: int, start_s: float, end_s: float, frozen: dict[int, tuple[Section, int]]) -> list[Input]:
    """Heartbeats and ticks each second; ranks in `frozen` repeat one place, the others make steps."""
    inputs: list[Input] = []
    now_s = start_s
    while now_s <= end_s:
        for rank in range(POLICY.world_size):
            section, step = frozen.get(rank, (Section.COMPUTE, int(now_s)))
            inputs.append(Heard(now_s, attempt, rank, section, step))
        inputs.append(Tick(now_s))
        now_s += 1.0
    return inputs


def test_a_run_without_failure_finishes_in_one_attempt() -> None:
    state, started = drive(begin_state(), [Begin(0.0)])
    assert started == [StartAttempt(1)]
    state, _ = drive(state, trained_until(1.0))
    assert state.phase is Phase.TRAINING
    state, stop = drive(state, [Exited(9.0, 1, 0, 0, 0), Exited(9.0, 1, 1, 0, 0)])
    assert stop == [StopAttempt(1, 0.0)]
    state, end = drive(state, [Gone(9.1, 1)])
    assert end == [AttemptOver(1, "finished"), EndRun(Phase.FINISHED, None)]


def test_a_killed_rank_stops_the_others_at_once_and_the_first_restart_does_not_wait() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    state, stop = drive(state, [Exited(5.0, 1, 1, 0, KILL)])
    assert stop == [StopAttempt(1, 0.0)]
    state, restart = drive(state, [Exited(5.0, 1, 0, 0, KILL), Gone(5.0, 1)])
    assert restart == [
        AttemptOver(1, "failed"),
        RestartPlanned(0.0, "rank 1 was ended by signal 9"),
        StartAttempt(2),
    ]
    assert state.phase is Phase.STARTING


def test_nothing_starts_while_a_process_of_the_last_attempt_may_live() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), Exited(5.0, 1, 1, 0, KILL)])
    later: list[Input] = [Tick(5.0 + n) for n in range(200)]
    for each in later:
        state, instructions = transition(POLICY, state, each)
        assert not [i for i in instructions if isinstance(i, StartAttempt)]
    assert state.phase is Phase.STOPPING


def test_an_attempt_that_does_not_go_is_told_again() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), Exited(5.0, 1, 1, 0, KILL)])
    state, instructions = drive(state, [Tick(8.0), Tick(12.0), Tick(15.5)])
    assert instructions == [StopAttempt(1, 0.0)]


def test_failures_without_progress_wait_longer_each_time_until_the_budget_is_spent() -> None:
    state, _ = drive(begin_state(), [Begin(0.0)])
    now_s, delays = 0.0, []
    for attempt in range(1, POLICY.restarts + 1):
        state, instructions = drive(state, [Exited(now_s, attempt, 0, 1, 0), Gone(now_s, attempt)])
        delays += [i.delay_s for i in instructions if isinstance(i, RestartPlanned)]
        now_s = max(now_s, state.wait_until_s)
        if state.phase is Phase.WAITING:
            early, nothing = drive(state, [Tick(now_s - 0.01)])
            assert (early.phase, nothing) == (Phase.WAITING, [])
            state, instructions = drive(state, [Tick(now_s)])
        assert instructions[-1] == StartAttempt(attempt + 1)
    assert delays == [0.0, 1.0, 2.0]
    last = POLICY.restarts + 1
    state, end = drive(state, [Exited(now_s, last, 0, 1, 0), Gone(now_s, last)])
    assert end[-1] == EndRun(Phase.FAILED, Cause(CauseKind.EXIT, 0, 1), True, failures_in_row=last)


def test_progress_takes_the_waiting_back_but_not_the_budget() -> None:
    state, _ = drive(begin_state(), [Begin(0.0)])
    state, _ = drive(state, [Exited(0.0, 1, 0, 1, 0), Gone(0.0, 1)])
    state, planned = drive(state, [Committed(1.0, 2, 60), Exited(2.0, 2, 0, 1, 0), Gone(2.0, 2)])
    assert planned[1] == RestartPlanned(0.0, "rank 0 ended with exit code 1")
    assert state.restarts_used == 2


def test_a_checkpoint_that_is_no_news_is_no_progress() -> None:
    state, _ = drive(begin_state(1, committed_step=60), [Begin(0.0), Committed(1.0, 2, 60)])
    state, _ = drive(state, [Exited(2.0, 2, 0, 1, 0), Gone(2.0, 2), Committed(3.0, 3, 60)])
    assert state.failures_in_row == 1


@given(st.integers(0, 10_000))
def test_the_waiting_never_shrinks_nor_passes_its_limit(failures: int) -> None:
    delay_s = back_off_s(POLICY, failures)
    assert 0.0 <= delay_s <= back_off_s(POLICY, failures + 1) <= POLICY.backoff_limit_s


@pytest.mark.parametrize("exit_code", [2, BadName.exit_code, 42, 121])
def test_a_known_error_is_never_retried(exit_code: int) -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    state, _ = drive(state, [Exited(5.0, 1, 0, exit_code, 0)])
    state, end = drive(state, [Exited(5.0, 1, 1, 0, KILL), Gone(5.0, 1)])
    cause = Cause(CauseKind.EXIT, 0, exit_code)
    assert end == [AttemptOver(1, "failed"), EndRun(Phase.FAILED, cause, failures_in_row=1)]


@pytest.mark.parametrize("exit_code", [1, Busy.exit_code, 137, 165])
def test_an_unknown_or_passing_error_is_retried(exit_code: int) -> None:
    assert can_be_mended(POLICY, Cause(CauseKind.EXIT, 0, exit_code))


def test_a_known_error_explains_what_it_did_to_the_other_ranks() -> None:
    """Rank 1 loses its peer and is reaped first; the error of rank 0 is the reason."""
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    state, end = drive(state, [Exited(5.0, 1, 1, 1, 0), Exited(5.0, 1, 0, 121, 0), Gone(5.0, 1)])
    assert end[-1] == EndRun(Phase.FAILED, Cause(CauseKind.EXIT, 0, 121), failures_in_row=1)


def test_a_rank_that_says_nothing_hangs() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    inputs = [each for each in beats(1, 2.0, 61.0, {}) if getattr(each, "rank", 0) == 0]
    state, nothing = drive(state, inputs)
    assert nothing == []
    state, instructions = drive(state, [Heard(61.5, 1, 0, Section.DATA, 61), Tick(61.5)])
    assert instructions == [ReportHang(1, 1, 60.5, Section.START_UP), StopAttempt(1, 1.0, stacks=True)]


def test_ranks_that_speak_but_get_nowhere_hang_and_the_one_behind_is_named() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    stuck = {0: (Section.COMPUTE, 8), 1: (Section.DATA, 8)}
    state, nothing = drive(state, beats(1, 2.0, 62.0, stuck))
    assert nothing == []
    state, instructions = drive(state, beats(1, 63.0, 63.0, stuck))
    assert instructions[0] == ReportHang(1, 1, 61.0, Section.DATA)


def test_a_hang_is_found_by_what_steps_usually_take() -> None:
    """Steps of a second: after ten of them the limit is ten seconds, and no more the sixty of the policy."""
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), *beats(1, 2.0, 30.0, {})])
    stuck = {0: (Section.COMPUTE, 30), 1: (Section.COMPUTE, 30)}
    state, nothing = drive(state, beats(1, 31.0, 40.0, stuck))
    assert nothing == []
    state, instructions = drive(state, beats(1, 41.0, 41.0, stuck))
    assert instructions == [ReportHang(1, 0, 11.0, Section.COMPUTE), StopAttempt(1, 1.0, stacks=True)]


def test_another_attempt_learns_anew() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), *beats(1, 2.0, 30.0, {})])
    state, _ = drive(state, [Exited(31.0, 1, 1, 0, KILL), Gone(31.0, 1), *trained_until(32.0, attempt=2)])
    stuck = {0: (Section.COMPUTE, 30), 1: (Section.COMPUTE, 30)}
    state, nothing = drive(state, beats(2, 33.0, 90.0, stuck))
    assert nothing == []


def test_the_stacks_are_believed_rather_than_the_guess() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    state, guessed = drive(state, beats(1, 2.0, 63.0, dict.fromkeys((0, 1), (Section.COMPUTE, 8))))
    assert isinstance(guessed[0], ReportHang) and guessed[0].rank == 0
    state, _ = drive(state, [Named(63.5, 1, 1), Exited(63.5, 1, 0, 0, KILL), Exited(63.5, 1, 1, 0, KILL)])
    state, restart = drive(state, [Gone(63.6, 1)])
    assert restart[1] == RestartPlanned(0.0, "rank 1 hung")


def test_a_rank_that_waits_for_one_that_makes_steps_does_not_hang() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    state, _ = drive(state, beats(1, 2.0, 400.0, {1: (Section.DONE, 600)}))
    assert state.phase is Phase.TRAINING


def test_an_evaluation_may_take_longer_than_a_step() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    waiting = {0: (Section.EVALUATE, 600), 1: (Section.DONE, 600)}
    state, _ = drive(state, beats(1, 2.0, 500.0, waiting))
    assert state.phase is Phase.TRAINING
    state, _ = drive(state, beats(1, 501.0, 610.0, waiting))
    assert state.phase is Phase.STOPPING


def test_an_attempt_that_does_not_get_ready_in_time_is_a_failure() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), Ready(3.0, 1, 0), *[Tick(4.0 * n) for n in range(1, 46)]])
    assert state.phase is Phase.STARTING
    state, instructions = drive(state, [Tick(181.0)])
    assert instructions == [ReportHang(1, 1, 181.0, Section.START_UP), StopAttempt(1, 0.0)]
    state, planned = drive(state, [Gone(182.0, 1)])
    assert planned[1] == RestartPlanned(0.0, "rank 1 was not ready within the start-up limit")


def test_a_pause_of_the_supervisor_is_not_held_against_the_ranks() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), *beats(1, 2.0, 30.0, {})])
    state, instructions = drive(state, [Tick(4_000.0), Tick(4_001.0)])
    assert (state.phase, instructions) == (Phase.TRAINING, [])


def test_a_lost_agent_is_a_failure_of_the_attempt() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    _, instructions = drive(state, [Gone(5.0, 1)])
    assert instructions[1] == RestartPlanned(0.0, "the agent was lost")


def test_an_attempt_that_may_not_be_started_ends_the_run() -> None:
    state, _ = drive(begin_state(), [Begin(0.0)])
    state, stop = drive(state, [Refused(0.0, 1)])
    assert stop == [StopAttempt(1, POLICY.refused_grace_s, quiet=True)]
    _, end = drive(state, [Gone(0.0, 1)])
    refused = Cause(CauseKind.REFUSED, -1)
    assert end == [AttemptOver(1, "failed"), EndRun(Phase.FAILED, refused, failures_in_row=1)]


def test_an_attempt_that_is_refused_while_it_stops_is_not_followed_by_another() -> None:
    """A lease that ran out ends the ranks, which may go on; then a way out of their network is found."""
    expired = Exited(5.0, 1, 0, Busy.exit_code, 0)
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), expired])
    assert state.cause is not None and can_be_mended(POLICY, state.cause)
    _, end = drive(state, [Refused(5.1, 1), Gone(5.2, 1)])
    assert end[-1] == EndRun(Phase.FAILED, Cause(CauseKind.REFUSED, -1), failures_in_row=1)


def test_after_a_rank_that_only_lost_its_peer_the_others_have_a_moment_to_say_why() -> None:
    lost = Exited(5.0, 1, 0, 118, 0)
    policy = dataclasses.replace(POLICY, symptom_codes=frozenset({118}), retry_codes=frozenset({118}))
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    stopping, stop = transition(policy, state, lost)
    assert stop == [StopAttempt(1, policy.last_words_s, last_words=True)]
    after, _ = transition(policy, stopping, Exited(5.1, 1, 1, 1, 0))
    assert after.ranks[1].ended == 1


def test_cancel_stops_politely_then_at_once_and_never_restarts() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0)])
    state, polite = drive(state, [Cancel(5.0)])
    assert polite == [StopAttempt(1, POLICY.stop_grace_s)]
    state, firm = drive(state, [Cancel(6.0)])
    assert firm == [StopAttempt(1, 0.0)]
    state, end = drive(state, [Exited(6.0, 1, 0, 0, 15), Exited(6.0, 1, 1, 1, 0), Gone(6.0, 1)])
    assert end == [AttemptOver(1, "cancelled"), EndRun(Phase.CANCELLED, None)]


def test_cancel_during_the_waiting_ends_the_run_at_once() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), Exited(0.0, 1, 0, 1, 0), Gone(0.0, 1)])
    state, _ = drive(state, [Exited(0.0, 2, 0, 1, 0), Gone(0.0, 2)])
    assert state.phase is Phase.WAITING
    _, end = drive(state, [Cancel(0.5)])
    assert end == [EndRun(Phase.CANCELLED, None, failures_in_row=2)]


def test_a_run_that_was_done_before_the_cancel_reached_it_is_finished() -> None:
    state, _ = drive(begin_state(), [Begin(0.0), *trained_until(1.0), Cancel(5.0)])
    _, end = drive(state, [Exited(5.0, 1, 0, 0, 0), Exited(5.0, 1, 1, 0, 0), Gone(5.1, 1)])
    assert end[-1] == EndRun(Phase.FINISHED, None)


def test_a_resumed_run_takes_the_next_attempt_number() -> None:
    _, instructions = drive(begin_state(4, committed_step=120), [Begin(0.0)])
    assert instructions == [StartAttempt(5)]


def test_news_of_another_attempt_or_an_unheard_of_rank_changes_nothing() -> None:
    state, _ = drive(
        begin_state(), [Begin(0.0), *trained_until(1.0), Exited(5.0, 1, 0, 0, KILL), Gone(5.0, 1)]
    )
    for stale in (
        Exited(6.0, 1, 0, 1, 0),
        Gone(6.0, 1),
        Ready(6.0, 1, 0),
        Ready(6.0, 2, 7),
        Exited(6.0, 2, -1, 1, 0),
    ):
        after, instructions = transition(POLICY, state, stale)
        assert (dataclasses.replace(after, seen_s=0.0), instructions) == (
            dataclasses.replace(state, seen_s=0.0),
            [],
        )


def test_the_table_covers_each_phase_in_which_something_can_happen() -> None:
    phases = {phase for phase, _ in TABLE}
    assert phases == set(Phase) - ENDED
    assert all((phase, Gone) in TABLE and (phase, Cancel) in TABLE for phase in ALIVE)


class AnyInterleaving(RuleBasedStateMachine):
    """A world of processes around the machine; `living` holds the ranks of each attempt that exist."""

    @initialize(
        world=st.integers(1, 3), restarts=st.integers(0, 4), earlier=st.integers(0, 3), spread=st.booleans()
    )
    def begin(self, world: int, restarts: int, earlier: int, spread: bool) -> None:
        nodes = Room(tuple("abcd"), 1, tuple(range(world, 0, -1))) if spread else None
        self.policy = dataclasses.replace(POLICY, world_size=world, restarts=restarts, nodes=nodes)
        self.state = begin_state(earlier)
        self.now_s = 1_000.0
        self.living: dict[int, set[int]] = {}
        self.agents: set[int] = set()
        self.started: list[int] = []
        self.ends: list[EndRun] = []
        self.cancelled = False
        self.feed(Begin(self.now_s))

    def feed(self, given: Input) -> None:
        was_over = self.state.phase in ENDED
        self.state, instructions = transition(self.policy, self.state, given)
        assert not (was_over and instructions), "nothing happens after the end"
        for each in instructions:
            if isinstance(each, StartAttempt):
                assert not self.agents and not any(self.living.values()), "two attempts alive"
                assert each.attempt not in self.started, "an attempt number is a fencing token"
                assert not self.cancelled
                self.started.append(each.attempt)
                self.living[each.attempt] = set(range(self.policy.world_size))
                self.agents.add(each.attempt)
            if isinstance(each, StopAttempt):
                assert each.attempt in self.agents
            if isinstance(each, EndRun):
                assert not self.agents, "a run ends only when its processes are gone"
                self.ends.append(each)

    def attempt(self) -> int:
        return self.state.attempt

    @rule(seconds=st.floats(0.0, 400.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.feed(Tick(self.now_s))

    @rule(rank=st.integers(-1, 3), section=st.sampled_from(list(Section)), step=st.integers(0, 9))
    def a_rank_speaks(self, rank: int, section: Section, step: int) -> None:
        self.feed(Heard(self.now_s, self.attempt(), rank, section, step))

    @rule(rank=st.integers(-1, 3))
    def a_rank_is_ready(self, rank: int) -> None:
        self.feed(Ready(self.now_s, self.attempt(), rank))

    @rule(rank=st.integers(-1, 3))
    def the_stacks_name_a_rank(self, rank: int) -> None:
        self.feed(Named(self.now_s, self.attempt(), rank))

    @rule(node=st.sampled_from("abcd"))
    def a_node_is_lost(self, node: str) -> None:
        self.feed(NodeLost(self.now_s, node))

    @rule(node=st.sampled_from("abcd"))
    def a_node_is_back(self, node: str) -> None:
        self.feed(NodeBack(self.now_s, node))

    @rule(step=st.integers(0, 99))
    def a_checkpoint_stands(self, step: int) -> None:
        self.feed(Committed(self.now_s, self.attempt(), step))

    @precondition(lambda self: any(self.living.values()))
    @rule(
        data=st.data(),
        code=st.sampled_from([0, 0, 0, 1, 2, 16, 42, 121]),
        signal=st.sampled_from([0, 0, 9, 15]),
    )
    def a_rank_ends(self, data: st.DataObject, code: int, signal: int) -> None:
        attempt = max(self.agents)
        rank = data.draw(st.sampled_from(sorted(self.living[attempt])))
        self.living[attempt].discard(rank)
        self.feed(Exited(self.now_s, attempt, rank, 0 if signal else code, signal))

    @rule()
    def the_attempt_is_refused(self) -> None:
        self.feed(Refused(self.now_s, self.attempt()))

    @precondition(lambda self: bool(self.agents))
    @rule()
    def the_agent_is_lost_with_its_ranks(self) -> None:
        attempt = max(self.agents)
        self.living[attempt].clear()
        self.agents.discard(attempt)
        self.feed(Gone(self.now_s, attempt))

    @rule(back=st.integers(1, 3))
    def old_news_arrives(self, back: int) -> None:
        self.feed(Exited(self.now_s, self.attempt() - back, 0, 1, 0))
        self.feed(Gone(self.now_s, self.attempt() - back))

    @rule()
    def a_person_cancels(self) -> None:
        self.cancelled = True
        self.feed(Cancel(self.now_s))

    @rule()
    def the_time_is_nearly_up(self) -> None:
        self.cancelled = True
        self.feed(Leave(self.now_s))

    @invariant()
    def all_invariants_hold(self) -> None:
        validate(self.policy, self.state)
        assert len(self.started) <= self.policy.restarts + 1, "the budget is respected"
        assert len(self.ends) <= 1
        assert (self.state.phase in ENDED) == bool(self.ends)

    def teardown(self) -> None:
        """From wherever it stands, a world that answers brings the run to its end."""
        if not hasattr(self, "state"):
            return
        for _ in range(20_000):
            if self.state.phase in ENDED:
                break
            if self.state.phase is Phase.STOPPING and self.agents:
                self.the_agent_is_lost_with_its_ranks()
            self.now_s += 4.0
            self.feed(Tick(self.now_s))
            self.all_invariants_hold()
        assert self.state.phase in ENDED, "the run always ends"


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
