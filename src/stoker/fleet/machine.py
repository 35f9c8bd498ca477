"""The life of a run as a pure state machine: (policy, state, input) -> (state, instructions).

No clock, process or file is touched here; the supervisor is the shell around it. The phases, the table of
transitions and the rules are in docs/design/fleet.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from stoker.core.errors import EXIT_USAGE, ROOM_EXIT_CODES
from stoker.core.events import Section
from stoker.fleet.run_state import (
    ALIVE,
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
    RankView,
    Ready,
    Refused,
    Regroup,
    ReportHang,
    RestartPlanned,
    RunState,
    SaveNow,
    StartAttempt,
    StopAttempt,
    Tick,
)
from stoker.fleet.section_limits import SectionTimes

EVALUATE_FACTOR: Final = 10.0
"""A rank that evaluates may show no progress for this many times `hang_after_s`."""

PAUSE_S: Final = 5.0
"""A longer silence of the supervisor itself (it was stopped, say) is not held against the ranks."""

STOP_AGAIN_S: Final = 10.0
"""An attempt that still exists this long after its grace is told to stop again, without grace."""

Step: TypeAlias = tuple[RunState, list[Instruction]]

_RANK_ROOMS: Final = ("core", "ledger", "keys", "store", "intake", "feed", "spec", "train")
_ORDER: Final = {section: place for place, section in enumerate(Section)}


def can_be_mended(policy: Policy, cause: Cause) -> bool:
    """Whether a restart may help: never for a known error outside `retry_codes`, nor for wrong usage.

    Known are the errors of rooms that a rank imports; codes from 130 up are signals as shells tell them.
    """
    if cause.kind is not CauseKind.EXIT:
        return cause.kind is not CauseKind.REFUSED
    known = any(cause.exit_code in ROOM_EXIT_CODES[room] for room in _RANK_ROOMS)
    return cause.exit_code in policy.retry_codes or not (known or cause.exit_code == EXIT_USAGE)


def back_off_s(policy: Policy, failures_in_row: int) -> float:
    """Seconds to wait after the n-th failure without progress: 0 for the first, then doubling to a limit."""
    if failures_in_row <= 1:
        return 0.0
    doublings = min(failures_in_row - 2, 62)
    return min(policy.backoff_limit_s, policy.backoff_first_s * 2.0**doublings)


def transition(policy: Policy, state: RunState, given: Input) -> Step:
    """The next state and what the shell must do. An input that the table does not name changes nothing."""
    state = _forgive_own_pause(state, given.now_s)
    if (
        isinstance(given, Heard | Ready | Exited | Refused | Gone | Committed | Named)
        and given.attempt != state.attempt
    ):
        return state, []
    rule = TABLE.get((state.phase, type(given)))
    return (state, []) if rule is None else rule(policy, state, given)


def _forgive_own_pause(state: RunState, now_s: float) -> RunState:
    pause_s = now_s - state.seen_s
    if pause_s <= PAUSE_S or state.phase not in ALIVE:
        return replace(state, seen_s=max(now_s, state.seen_s))
    ranks = tuple(
        replace(rank, heard_s=rank.heard_s + pause_s, moved_s=rank.moved_s + pause_s) for rank in state.ranks
    )
    return replace(state, seen_s=now_s, ranks=ranks, phase_since_s=state.phase_since_s + pause_s)


def _start(policy: Policy, state: RunState, now_s: float) -> Step:
    attempt = state.attempt + 1
    place = policy.room.place(state.lost, state.place)
    if not place:
        return _end(replace(state, cause=Cause(CauseKind.NO_NODE, -1)), Phase.FAILED)
    state = replace(state, place=place)
    ranks = tuple(RankView(heard_s=now_s, moved_s=now_s) for _ in place)
    begun = replace(state, phase=Phase.STARTING, attempt=attempt, ranks=ranks, phase_since_s=now_s)
    begun = replace(begun, cause=None, times=SectionTimes())
    return begun, [StartAttempt(attempt)]


def _begin(policy: Policy, state: RunState, given: Input) -> Step:
    return _start(policy, state, given.now_s)


def _end(state: RunState, outcome: Phase, *, budget_spent: bool = False) -> Step:
    ended = replace(state, phase=outcome, ranks=(), wait_until_s=0.0)
    return ended, [EndRun(outcome, state.cause, budget_spent, state.failures_in_row)]


def _cancel_idle(policy: Policy, state: RunState, given: Input) -> Step:
    return _end(replace(state, cancelling=True, cause=None), Phase.CANCELLED)


def _heard(policy: Policy, state: RunState, given: Input) -> Step:
    assert isinstance(given, Heard)
    if not 0 <= given.rank < len(state.ranks):
        return state, []
    view = state.ranks[given.rank]
    moved = given.moved or (given.section, given.step) != (view.section, view.step)
    view = replace(view, section=given.section, step=given.step, heard_s=given.now_s)
    if moved:
        before = state.ranks[given.rank]
        view = replace(view, moved_s=given.now_s)
        if state.phase is Phase.TRAINING:
            state = replace(state, times=state.times.after(before.section, given.now_s - before.moved_s))
    return _with_rank(state, given.rank, view), []


def _ready(policy: Policy, state: RunState, given: Input) -> Step:
    assert isinstance(given, Ready)
    if not 0 <= given.rank < len(state.ranks):
        return state, []
    view = replace(state.ranks[given.rank], ready=True, heard_s=given.now_s, moved_s=given.now_s)
    state = _with_rank(state, given.rank, view)
    if all(rank.ready for rank in state.ranks):
        state = replace(state, phase=Phase.TRAINING, phase_since_s=given.now_s)
    return state, []


def _exited(policy: Policy, state: RunState, given: Input) -> Step:
    assert isinstance(given, Exited)
    if not 0 <= given.rank < len(state.ranks):
        return state, []
    ended = -given.signal if given.signal else given.exit_code
    state = _with_rank(state, given.rank, replace(state.ranks[given.rank], ended=ended))
    if all(rank.ended == 0 for rank in state.ranks):
        return _stop(state, None, given.now_s)
    if ended == 0:
        return state, []
    kind = CauseKind.SIGNAL if given.signal else CauseKind.EXIT
    stopping, at_once = _stop(state, Cause(kind, given.rank, given.exit_code, given.signal), given.now_s)
    if given.exit_code in policy.symptom_codes:
        return stopping, [StopAttempt(state.attempt, policy.last_words_s, last_words=True)]
    return stopping, at_once


def _refused(policy: Policy, state: RunState, given: Input) -> Step:
    stopping, _ = _stop(state, Cause(CauseKind.REFUSED, -1), given.now_s)
    return stopping, [StopAttempt(state.attempt, policy.refused_grace_s, quiet=True)]


def _refused_while_stopping(policy: Policy, state: RunState, given: Input) -> Step:
    """Whatever it is that ends the attempt, no other may follow it."""
    return replace(state, cause=Cause(CauseKind.REFUSED, -1)), []


def _exited_while_stopping(policy: Policy, state: RunState, given: Input) -> Step:
    """A known error explains a failure better than what it made of the other ranks."""
    assert isinstance(given, Exited)
    if not 0 <= given.rank < len(state.ranks):
        return state, []
    ended = -given.signal if given.signal else given.exit_code
    state = _with_rank(state, given.rank, replace(state.ranks[given.rank], ended=ended))
    late = Cause(CauseKind.EXIT, given.rank, given.exit_code)
    explains = ended > 0 and not can_be_mended(policy, late)
    if state.cause is not None and explains and can_be_mended(policy, state.cause):
        state = replace(state, cause=late)
    return state, []


def _stop(state: RunState, cause: Cause | None, now_s: float, grace_s: float = 0.0) -> Step:
    stopping = replace(state, phase=Phase.STOPPING, cause=cause, phase_since_s=now_s)
    return stopping, [StopAttempt(state.attempt, grace_s)]


def _cancel_alive(policy: Policy, state: RunState, given: Input) -> Step:
    return _stop(replace(state, cancelling=True), None, given.now_s, policy.stop_grace_s)


def _leave(policy: Policy, state: RunState, given: Input) -> Step:
    """The step that is under way is the last one; its checkpoint is waited for, but not for ever."""
    if state.leave_by_s:
        return state, []
    by_s, after_step = given.now_s + policy.leave_within_s, state.ranks[0].step
    return replace(state, leave_by_s=by_s, leave_after_step=after_step), [SaveNow(state.attempt)]


def _committed_in_training(policy: Policy, state: RunState, given: Input) -> Step:
    """Nothing is lost by an end right now: the time to leave, or to grow when a node is back."""
    assert isinstance(given, Committed)
    state, _ = _committed(policy, state, given)
    if state.leave_by_s and given.step >= state.leave_after_step:
        return _cancel_alive(policy, state, given)
    if len(policy.room.place(state.lost, state.place)) > len(state.place):
        cause = Cause(CauseKind.REGROUP, -1)
        stopping, instructions = _stop(state, cause, given.now_s)
        return stopping, [Regroup(state.attempt, str(cause)), *instructions]
    return state, []


def _cancel_again(policy: Policy, state: RunState, given: Input) -> Step:
    state = replace(state, cancelling=True, phase_since_s=given.now_s)
    return state, [StopAttempt(state.attempt, 0.0)]


def _leave_while_stopping(policy: Policy, state: RunState, given: Input) -> Step:
    """What is stopping is not started again on this node."""
    return replace(state, cancelling=True), []


def _tick_starting(policy: Policy, state: RunState, given: Input) -> Step:
    if given.now_s - state.phase_since_s <= policy.start_within_s:
        return state, []
    late = next((n for n, rank in enumerate(state.ranks) if not rank.ready and rank.ended is None), -1)
    return _stop_for(policy, state, CauseKind.START_LIMIT, late, given.now_s)


def _tick_training(policy: Policy, state: RunState, given: Input) -> Step:
    """A rank that says nothing hangs; ranks that speak hang only when none of them gets anywhere.

    All ranks of a step wait for the slowest, so the one that is furthest behind is named.
    """
    if state.leave_by_s and given.now_s > state.leave_by_s:
        return _cancel_alive(policy, state, given)
    living = [n for n, rank in enumerate(state.ranks) if rank.ended is None]
    silent = [n for n in living if given.now_s - state.ranks[n].heard_s > policy.hang_after_s]
    if not silent and not all(_stands_still(policy, state, n, given.now_s) for n in living):
        return state, []
    furthest_behind = min(silent or living, key=lambda n: _place(state.ranks[n]))
    return _stop_for(policy, state, CauseKind.HANG, furthest_behind, given.now_s)


def _stands_still(policy: Policy, state: RunState, number: int, now_s: float) -> bool:
    rank = state.ranks[number]
    factor = EVALUATE_FACTOR if rank.section is Section.EVALUATE else 1.0
    bounds = {"at_least_s": policy.hang_at_least_s, "at_most_s": policy.hang_after_s * factor}
    return now_s - rank.moved_s > state.times.limit_s(rank.section, **bounds)


def _place(rank: RankView) -> tuple[int, int, float]:
    return rank.step, _ORDER[rank.section], rank.moved_s


def _stop_for(policy: Policy, state: RunState, kind: CauseKind, rank: int, now_s: float) -> Step:
    state, instructions = _stop(state, Cause(kind, rank), now_s)
    if kind is CauseKind.HANG:
        instructions = [StopAttempt(state.attempt, policy.stacks_within_s, stacks=True)]
    if rank >= 0:
        view = state.ranks[rank]
        since_s = min(view.moved_s, view.heard_s)
        instructions.insert(0, ReportHang(state.attempt, rank, now_s - since_s, view.section))
    return state, instructions


def _tick_stopping(policy: Policy, state: RunState, given: Input) -> Step:
    grace_s = policy.stop_grace_s if state.cancelling else 0.0
    if given.now_s - state.phase_since_s <= grace_s + STOP_AGAIN_S:
        return state, []
    return replace(state, phase_since_s=given.now_s), [StopAttempt(state.attempt, 0.0)]


def _named(policy: Policy, state: RunState, given: Input) -> Step:
    """The rank that was furthest behind was a guess; where the stacks tell, they are believed."""
    assert isinstance(given, Named)
    if state.cause is None or state.cause.kind is not CauseKind.HANG:
        return state, []
    if not 0 <= given.rank < len(state.ranks):
        return state, []
    return replace(state, cause=Cause(CauseKind.HANG, given.rank)), []


def _committed(policy: Policy, state: RunState, given: Input) -> Step:
    assert isinstance(given, Committed)
    if given.step <= state.committed_step:
        return state, []
    return replace(state, committed_step=given.step, failures_in_row=0), []


def _node_lost(policy: Policy, state: RunState, given: Input) -> Step:
    """An attempt that has ranks on it is over; that is what its ranks' ends come from."""
    assert isinstance(given, NodeLost)
    state = replace(state, lost=state.lost | {given.node})
    if given.node not in state.place or state.phase not in ALIVE:
        return state, []
    cause = Cause(CauseKind.NODE_LOST, state.place.index(given.node))
    if state.phase is not Phase.STOPPING:
        return _stop(state, cause, given.now_s)
    mendable = state.cause is not None and can_be_mended(policy, state.cause)
    return (replace(state, cause=cause) if mendable else state), []


def _node_back(policy: Policy, state: RunState, given: Input) -> Step:
    assert isinstance(given, NodeBack)
    return replace(state, lost=state.lost - {given.node}), []


def _gone(policy: Policy, state: RunState, given: Input) -> Step:
    """The only way out of the phases in which processes may exist."""
    done = bool(state.ranks) and all(rank.ended == 0 for rank in state.ranks)
    if done:
        finished, instructions = _end(replace(state, cause=None), Phase.FINISHED)
        return finished, [AttemptOver(state.attempt, "finished"), *instructions]
    if state.cancelling or state.leave_by_s:
        cancelled, instructions = _end(replace(state, cancelling=True), Phase.CANCELLED)
        return cancelled, [AttemptOver(state.attempt, "cancelled"), *instructions]
    cause = state.cause or Cause(CauseKind.AGENT_LOST, -1)
    if cause.kind is CauseKind.REGROUP:
        started, instructions = _start(policy, state, given.now_s)
        planned = RestartPlanned(0.0, str(cause))
        return started, [AttemptOver(state.attempt, "regrouped"), planned, *instructions]
    state = replace(state, cause=cause, failures_in_row=state.failures_in_row + 1)
    over = AttemptOver(state.attempt, "failed")
    mendable = can_be_mended(policy, cause)
    spent = state.restarts_used >= policy.restarts or state.failures_in_row >= policy.row_limit
    if not mendable or spent:
        failed, instructions = _end(state, Phase.FAILED, budget_spent=mendable)
        return failed, [over, *instructions]
    delay_s = back_off_s(policy, state.failures_in_row)
    state = replace(state, restarts_used=state.restarts_used + 1)
    planned = RestartPlanned(delay_s, str(cause))
    if delay_s > 0:
        waiting = replace(state, phase=Phase.WAITING, ranks=(), wait_until_s=given.now_s + delay_s)
        return replace(waiting, phase_since_s=given.now_s), [over, planned]
    started, instructions = _start(policy, state, given.now_s)
    return started, [over, planned, *instructions]


def _tick_waiting(policy: Policy, state: RunState, given: Input) -> Step:
    if given.now_s < state.wait_until_s:
        return state, []
    return _start(policy, replace(state, wait_until_s=0.0), given.now_s)


def _with_rank(state: RunState, rank: int, view: RankView) -> RunState:
    return replace(state, ranks=(*state.ranks[:rank], view, *state.ranks[rank + 1 :]))


Rule: TypeAlias = Callable[[Policy, RunState, Input], Step]

TABLE: Final[Mapping[tuple[Phase, type[Input]], Rule]] = {
    (Phase.NEW, Begin): _begin,
    (Phase.NEW, Cancel): _cancel_idle,
    (Phase.NEW, Leave): _cancel_idle,
    (Phase.STARTING, Heard): _heard,
    (Phase.STARTING, Ready): _ready,
    (Phase.STARTING, Exited): _exited,
    (Phase.STARTING, Refused): _refused,
    (Phase.STARTING, Committed): _committed,
    (Phase.STARTING, Gone): _gone,
    (Phase.STARTING, Cancel): _cancel_alive,
    (Phase.STARTING, Leave): _cancel_alive,
    (Phase.STARTING, Tick): _tick_starting,
    (Phase.TRAINING, Heard): _heard,
    (Phase.TRAINING, Exited): _exited,
    (Phase.TRAINING, Refused): _refused,
    (Phase.TRAINING, Committed): _committed_in_training,
    (Phase.TRAINING, Gone): _gone,
    (Phase.TRAINING, Cancel): _cancel_alive,
    (Phase.TRAINING, Leave): _leave,
    (Phase.TRAINING, Tick): _tick_training,
    (Phase.STOPPING, Exited): _exited_while_stopping,
    (Phase.STOPPING, Refused): _refused_while_stopping,
    (Phase.STOPPING, Committed): _committed,
    (Phase.STOPPING, Gone): _gone,
    (Phase.STOPPING, Named): _named,
    (Phase.STARTING, NodeLost): _node_lost,
    (Phase.TRAINING, NodeLost): _node_lost,
    (Phase.STOPPING, NodeLost): _node_lost,
    (Phase.WAITING, NodeLost): _node_lost,
    (Phase.STARTING, NodeBack): _node_back,
    (Phase.TRAINING, NodeBack): _node_back,
    (Phase.STOPPING, NodeBack): _node_back,
    (Phase.WAITING, NodeBack): _node_back,
    (Phase.STOPPING, Cancel): _cancel_again,
    (Phase.STOPPING, Leave): _leave_while_stopping,
    (Phase.STOPPING, Tick): _tick_stopping,
    (Phase.WAITING, Cancel): _cancel_idle,
    (Phase.WAITING, Leave): _cancel_idle,
    (Phase.WAITING, Tick): _tick_waiting,
}
"""Every pair that changes something; the same table stands in docs/design/fleet.md."""


def validate(policy: Policy, state: RunState) -> None:
    """Assert what must hold between any two inputs."""
    assert state.attempt >= 0
    assert 0 <= state.restarts_used <= policy.restarts
    assert state.failures_in_row >= 0
    alive = state.phase in ALIVE
    assert bool(state.ranks) == alive, "ranks are known exactly while an attempt may be alive"
    assert not state.ranks or len(state.ranks) == len(state.place)
    assert not state.place or len(state.place) in policy.room.worlds
    assert set(state.place) <= set(policy.room.nodes)
    assert (state.wait_until_s > 0) <= (state.phase is Phase.WAITING)
    done = all(rank.ended == 0 for rank in state.ranks)
    assert state.phase is not Phase.STOPPING or state.cancelling or state.cause is not None or done
    assert state.phase is not Phase.CANCELLED or state.cancelling
    assert state.phase is not Phase.FAILED or state.cause is not None
    if state.phase is Phase.TRAINING:
        assert all(rank.ready for rank in state.ranks)
    if state.phase in (Phase.STARTING, Phase.TRAINING):
        assert not state.cancelling, "a cancelled run never starts again"
        assert state.cause is None and not done
        assert all(rank.ended in (None, 0) for rank in state.ranks)
