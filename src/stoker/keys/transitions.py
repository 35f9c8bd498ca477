"""The life of a KEK as a pure table, after NIST SP 800-57 part 1, section 7. See docs/design/keys.md.

`step(ref, life, event)` says what follows and what the back end must do; it reads no clock and touches no
file.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Final

from stoker.core.ids import check_name
from stoker.keys.dual_control import ended, not_suspended, on_its_way_out
from stoker.keys.key_events import (
    Activate,
    ApplyTombstone,
    ApproveDestroy,
    Compromise,
    Deactivate,
    DestroyDue,
    DestroyNow,
    ExpireEarlier,
    KekEvent,
    RequestDestroy,
    Resume,
    Suspend,
    WithdrawDestroy,
)
from stoker.keys.refs import KekRef
from stoker.keys.states import KekLife, KekState, check_reason, refusal


class Instruction(enum.Enum):
    """What the back end must carry out, in this order, before the new state counts."""

    DISABLE_KEY = "disable-key"
    ENABLE_KEY = "enable-key"
    LEAVE_TOMBSTONE = "leave-tombstone"
    ERASE_KEY = "erase-key"


_PRE_ACTIVE, _ACTIVE, _DEACTIVATED = KekState.PRE_ACTIVE, KekState.ACTIVE, KekState.DEACTIVATED
_SUSPENDED, _COMPROMISED = KekState.SUSPENDED, KekState.COMPROMISED
_PENDING, _DESTROYED = KekState.PENDING_DESTROY, KekState.DESTROYED

_IN_USE: Final = (_PRE_ACTIVE, _ACTIVE, _DEACTIVATED)
_LIVE: Final = (*_IN_USE, _SUSPENDED, _COMPROMISED)

TRANSITIONS: Final[dict[tuple[KekState, type[KekEvent]], frozenset[KekState]]] = {
    (_PRE_ACTIVE, Activate): frozenset({_ACTIVE}),
    (_ACTIVE, Deactivate): frozenset({_DEACTIVATED}),
    (_SUSPENDED, Deactivate): frozenset({_SUSPENDED}),
    (_SUSPENDED, Resume): frozenset(_IN_USE),
    **{(state, Suspend): frozenset({_SUSPENDED}) for state in _IN_USE},
    **{(state, Compromise): frozenset({_COMPROMISED}) for state in (*_IN_USE, _SUSPENDED)},
    (_PENDING, Compromise): frozenset({_PENDING}),
    **{(state, RequestDestroy): frozenset({state}) for state in _LIVE},
    **{(state, ApproveDestroy): frozenset({_PENDING}) for state in _LIVE},
    **{(state, WithdrawDestroy): frozenset({state}) for state in _LIVE},
    (_PENDING, WithdrawDestroy): frozenset(_LIVE),
    (_PENDING, DestroyDue): frozenset({_DESTROYED}),
    **{(state, DestroyNow): frozenset({_DESTROYED}) for state in (*_LIVE, _PENDING)},
    **{(state, ApplyTombstone): frozenset({_DESTROYED}) for state in (*_LIVE, _PENDING)},
    **{(state, ExpireEarlier): frozenset({state}) for state in (*_LIVE, _PENDING)},
}
"""Every step that exists, and where it may lead; whatever is not here is refused. Nothing leaves DESTROYED.

Where there is a choice, it is the state that was left: resuming and withdrawing lead back, to nothing new.
"""

_DISABLED: Final = frozenset({_SUSPENDED, _PENDING})


def step(ref: KekRef, life: KekLife, event: KekEvent) -> tuple[KekLife, tuple[Instruction, ...]]:
    """What `event` makes of `life`, and what must be done for it.

    Raises KeyDestroyed, KeyNotActive, DualControlRefused, DestroyWindowRefused, BadReason, or BadName for an
    identity that is no name: names are lower-case ASCII, so no two spellings of one identity exist, and
    identities are compared byte by byte.
    """
    allowed = TRANSITIONS.get((life.state, type(event)))
    if allowed is None:
        raise refusal(ref, life.state, f"takes no {type(event).__name__}")
    after = _following(ref, life, event)
    assert after.state in allowed, f"{life.state} took {type(event).__name__} to {after.state}"
    after.validate()
    return after, _instructions(life.state, after.state)


def _following(ref: KekRef, life: KekLife, event: KekEvent) -> KekLife:
    match event:
        case Activate():
            return replace(life, state=_ACTIVE)
        case Deactivate():
            if life.state is not _SUSPENDED:
                return replace(life, state=_DEACTIVATED)
            if life.resumes_as is not _ACTIVE:
                raise refusal(ref, life.state, "is deactivated already once it is resumed")
            return replace(life, resumes_as=_DEACTIVATED)
        case Suspend(by, reason):
            check_name(by, "identity")
            check_reason(reason, needed=True)
            return replace(
                life, state=_SUSPENDED, resumes_as=life.state, suspended_by=by, suspended_reason=reason
            )
        case Resume(by):
            check_name(by, "identity")
            assert life.resumes_as is not None
            return not_suspended(replace(life, state=life.resumes_as))
        case Compromise(by, reason):
            return _compromised(ref, life, by, reason)
        case ExpireEarlier():
            return life
        case ApplyTombstone():
            return ended(life)
        case _:
            return on_its_way_out(ref, life, event)


def _compromised(ref: KekRef, life: KekLife, by: str, reason: str) -> KekLife:
    check_name(by, "identity")
    check_reason(reason, needed=True)
    if life.compromised:
        raise refusal(ref, _COMPROMISED, "is known to be so")
    after = not_suspended(replace(life, compromised_by=by, compromised_reason=reason))
    if life.state is _PENDING:
        return replace(after, withdraws_to=_COMPROMISED)
    return replace(after, state=_COMPROMISED)


def _instructions(before: KekState, after: KekState) -> tuple[Instruction, ...]:
    if after is _DESTROYED:
        return Instruction.LEAVE_TOMBSTONE, Instruction.ERASE_KEY
    if (before in _DISABLED) == (after in _DISABLED):
        return ()
    return (Instruction.DISABLE_KEY,) if after in _DISABLED else (Instruction.ENABLE_KEY,)
