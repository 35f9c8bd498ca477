"""The life of a node as a pure state machine: (policy, state, event) -> (state, instructions).

No clock, machine or ledger is touched here. The phases, the table and the rules are in docs/design/nodes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from stoker.core.node_settings import Severity
from stoker.fleet.nodes.node_state import (
    LOST,
    PERSON,
    TAKES_WORK,
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
    Overruled,
    Phase,
    PlaceAgain,
    Reason,
    Resume,
    RunChecks,
    SeenFinding,
    StopPlacing,
)

Step: TypeAlias = tuple[NodeState, list[Instruction]]


def transition(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    """The next state and what the shell must do. An event that the table does not name changes nothing."""
    rule = TABLE.get((state.phase, type(given)))
    return (state, []) if rule is None else rule(policy, state, given)


def _heard(state: NodeState, given: Checked) -> Checked:
    """The report without what a person overruled."""
    silent = {each.check for each in state.overruled if each.until_s > given.now_s}
    return replace(given, findings=tuple(each for each in given.findings if each.check not in silent))


def _fresh(state: NodeState, now_s: float) -> NodeState:
    """Without overrulings whose time is over."""
    kept = tuple(each for each in state.overruled if each.until_s > now_s)
    return state if kept == state.overruled else replace(state, overruled=kept)


def _failures(state: NodeState, report: Checked) -> tuple[SeenFinding, ...]:
    """What failed. Silence is no evidence at once: a busy node is late, a broken one stays so."""
    return tuple(
        each
        for each in report.findings
        if each.severity is not None and (each.answered or each.check in state.silent)
    )


def _evicts(findings: tuple[SeenFinding, ...]) -> bool:
    return any(each.severity is Severity.EVICT_NOW for each in findings)


def _with_reasons(state: NodeState, *added: Reason) -> NodeState:
    """One reason for each source: the first stays, with its evidence and its time."""
    known = {(each.source, each.by) for each in state.reasons}
    new = tuple(each for each in added if (each.source, each.by) not in known)
    return replace(state, reasons=state.reasons + new) if new else state


def _told(state: NodeState) -> str:
    return "; ".join(f"{each.source}: {each.evidence}" for each in state.reasons)


def _reasons_of(findings: tuple[SeenFinding, ...], now_s: float) -> tuple[Reason, ...]:
    return tuple(Reason(each.check, each.evidence, now_s) for each in findings)


def _take_out(state: NodeState, phase: Phase, *reasons: Reason) -> Step:
    """Into `draining` or `out`, from wherever work was taken or was coming to its end."""
    told = _with_reasons(replace(state, phase=phase, passes=0, silent=()), *reasons)
    instructions: list[Instruction] = []
    if state.phase in TAKES_WORK:
        instructions.append(StopPlacing(_told(told)))
    if phase is Phase.OUT:
        instructions.append(EndJobs(_told(told)))
    return told, instructions


def _checked_at_work(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    assert isinstance(given, Checked)
    state, report = _fresh(state, given.now_s), _heard(state, given)
    failures = _failures(state, report)
    if failures:
        phase = Phase.OUT if _evicts(failures) else Phase.DRAINING
        return _take_out(state, phase, *_reasons_of(failures, given.now_s))
    silent = tuple(each.check for each in report.findings if not each.answered)
    if report.findings:
        return replace(state, phase=Phase.SUSPECT, passes=0, silent=silent), []
    if state.phase is Phase.HEALTHY:
        return state, []
    state = replace(state, silent=())
    passes = state.passes + 1
    if passes >= policy.passes_to_clear:
        return replace(state, phase=Phase.HEALTHY, passes=0), []
    return replace(state, passes=passes), []


def _checked_draining(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    """More may be found while jobs end; passing checks bring nothing back before the node is empty."""
    assert isinstance(given, Checked)
    state, report = _fresh(state, given.now_s), _heard(state, given)
    failures = _failures(state, report)
    if _evicts(failures) and state.phase is Phase.DRAINING:
        return _take_out(state, Phase.OUT, *_reasons_of(failures, given.now_s))
    return _with_reasons(state, *_reasons_of(failures, given.now_s)), []


def _checked_empty(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    """Back only when nothing was found, and every check that took the node out says ok, not `not present`."""
    assert isinstance(given, Checked)
    state, report = _fresh(state, given.now_s), _heard(state, given)
    if report.findings:
        drained = replace(state, phase=Phase.DRAINED, passes=0)
        return _with_reasons(drained, *_reasons_of(_failures(state, report), given.now_s)), []
    silent = {each.check for each in state.overruled}
    unproved = [
        each
        for each in state.reasons
        if each.source not in report.ok | silent | {LOST} or each.source == PERSON
    ]
    if unproved:
        return replace(state, phase=Phase.DRAINED, passes=0), []
    passes = state.passes + 1
    if passes < policy.passes_to_return:
        return replace(state, phase=Phase.RETURNING, passes=passes), [RunChecks()]
    return replace(state, phase=Phase.HEALTHY, passes=0, reasons=()), [PlaceAgain()]


def _blamed(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    return replace(state, phase=Phase.SUSPECT, passes=0), [RunChecks()]


def _lost(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    assert isinstance(given, NodeLost)
    return _take_out(state, Phase.OUT, Reason(LOST, given.evidence, given.now_s))


def _lost_empty(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    assert isinstance(given, NodeLost)
    reason = Reason(LOST, given.evidence, given.now_s)
    return _with_reasons(replace(state, phase=Phase.DRAINED, passes=0), reason), []


def _jobs_gone(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    return replace(state, phase=Phase.DRAINED, passes=0), [RunChecks()]


def _drain(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    assert isinstance(given, Drain)
    reason = Reason(PERSON, given.reason, given.now_s, given.by)
    if state.phase is Phase.OUT or (state.phase is Phase.DRAINING and not given.now):
        return _with_reasons(state, reason), []
    return _take_out(state, Phase.OUT if given.now else Phase.DRAINING, reason)


def _drain_empty(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    assert isinstance(given, Drain)
    reason = Reason(PERSON, given.reason, given.now_s, given.by)
    return _with_reasons(replace(state, phase=Phase.DRAINED, passes=0), reason), []


def _resume(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    """What people said is taken back; what checks say stands. With jobs still there it need not empty first.

    A node that only a person drained, and on which jobs still run, was never found wanting: it works on.
    """
    kept = tuple(each for each in state.reasons if each.source != PERSON)
    if not kept and state.phase is Phase.DRAINING:
        return replace(state, phase=Phase.HEALTHY, reasons=(), passes=0), [PlaceAgain(), RunChecks()]
    return replace(state, reasons=kept, passes=0), [RunChecks()]


def _overrule(policy: NodePolicy, state: NodeState, given: Event) -> Step:
    assert isinstance(given, Overrule)
    checks = {each.source for each in state.reasons} - {PERSON, LOST}
    standing = tuple(
        each for each in state.overruled if each.until_s > given.now_s and each.check not in checks
    )
    heard_no_more = tuple(Overruled(check, given.until_s) for check in sorted(checks))
    back = NodeState(Phase.HEALTHY, (), 0, standing + heard_no_more)
    return back, [] if state.takes_work else [PlaceAgain()]


Rule: TypeAlias = Callable[[NodePolicy, NodeState, Event], Step]

TABLE: Final[Mapping[tuple[Phase, type[Event]], Rule]] = {
    (Phase.HEALTHY, Checked): _checked_at_work,
    (Phase.HEALTHY, Blamed): _blamed,
    (Phase.HEALTHY, NodeLost): _lost,
    (Phase.HEALTHY, Drain): _drain,
    (Phase.SUSPECT, Checked): _checked_at_work,
    (Phase.SUSPECT, Blamed): _blamed,
    (Phase.SUSPECT, NodeLost): _lost,
    (Phase.SUSPECT, Drain): _drain,
    (Phase.SUSPECT, Overrule): _overrule,
    (Phase.DRAINING, Checked): _checked_draining,
    (Phase.DRAINING, NodeLost): _lost,
    (Phase.DRAINING, JobsGone): _jobs_gone,
    (Phase.DRAINING, Drain): _drain,
    (Phase.DRAINING, Resume): _resume,
    (Phase.DRAINING, Overrule): _overrule,
    (Phase.OUT, Checked): _checked_draining,
    (Phase.OUT, JobsGone): _jobs_gone,
    (Phase.OUT, Drain): _drain,
    (Phase.OUT, Resume): _resume,
    (Phase.DRAINED, Checked): _checked_empty,
    (Phase.DRAINED, NodeLost): _lost_empty,
    (Phase.DRAINED, Drain): _drain_empty,
    (Phase.DRAINED, Resume): _resume,
    (Phase.DRAINED, Overrule): _overrule,
    (Phase.RETURNING, Checked): _checked_empty,
    (Phase.RETURNING, NodeLost): _lost_empty,
    (Phase.RETURNING, Drain): _drain_empty,
    (Phase.RETURNING, Overrule): _overrule,
}
"""Every pair that changes something; the same table stands in docs/design/nodes.md."""


def validate(policy: NodePolicy, state: NodeState) -> None:
    """Assert what must hold between any two events."""
    assert not (state.takes_work and state.reasons), "a node that takes work has no reason against it"
    assert not (state.held_by_a_person and state.phase is Phase.RETURNING)
    limit = {Phase.SUSPECT: policy.passes_to_clear, Phase.RETURNING: policy.passes_to_return}
    assert 0 <= state.passes < limit.get(state.phase, 1)
    assert (state.phase is Phase.RETURNING) <= (state.passes > 0)
    sources = [(each.source, each.by) for each in state.reasons]
    assert len(set(sources)) == len(sources), "one reason for each source"
    assert not state.silent or state.phase is Phase.SUSPECT
    checks = [each.check for each in state.overruled]
    assert len(set(checks)) == len(checks)
    assert not {PERSON, LOST} & set(checks), "people and silence are not overruled"
