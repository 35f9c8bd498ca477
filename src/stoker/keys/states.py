"""The life of a KEK, after NIST SP 800-57 part 1, section 7: a pure table. See docs/design/keys.md, "States".

`step(ref, life, event)` says what follows and what the back end must do; it reads no clock and touches no
file. Where time matters, the event brings it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from stoker.core.ids import check_name
from stoker.keys.errors import (
    BadReason,
    DestroyWindowRefused,
    DualControlRefused,
    KeyDestroyed,
    KeyNotActive,
)
from stoker.keys.refs import KekRef

DAY_S: Final = 86_400.0
MIN_WINDOW_S: Final = 7 * DAY_S
"""The shortest time to withdraw a destruction in; 7 and 30 days are the limits of AWS KMS too."""

MAX_WINDOW_S: Final = 30 * DAY_S
DEFAULT_ORIGINATOR_S: Final = 730 * DAY_S
"""How long a KEK wraps if nothing else is said: two years (SP 800-57 part 1, table 1, key wrapping)."""

MAX_REASON_LETTERS: Final = 500


class KekState(enum.StrEnum):
    """Active wraps and unwraps; deactivated unwraps; compromised unwraps for moving what survives."""

    PRE_ACTIVE = "pre-active"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    SUSPENDED = "suspended"
    COMPROMISED = "compromised"
    PENDING_DESTROY = "pending-destroy"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Activate:
    """The KEK begins to wrap."""


@dataclass(frozen=True, slots=True)
class Deactivate:
    """The KEK wraps no more."""


@dataclass(frozen=True, slots=True)
class Suspend:
    """Nothing wraps or unwraps until it is resumed: there is a doubt to be cleared."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    """The doubt was cleared."""

    by: str


@dataclass(frozen=True, slots=True)
class Compromise:
    """Somebody else may have the KEK: it never wraps again, and unwraps only for moving what survives."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequestDestroy:
    """One identity asks that the KEK be destroyed, with a window in which that can be withdrawn."""

    by: str
    window_s: float = MIN_WINDOW_S
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ApproveDestroy:
    """Another identity agrees, and the window begins."""

    by: str
    now_s: float


@dataclass(frozen=True, slots=True)
class WithdrawDestroy:
    """The request, or the approved destruction whose window is not over, is taken back."""

    by: str
    now_s: float


@dataclass(frozen=True, slots=True)
class DestroyDue:
    """The window is over."""

    now_s: float


@dataclass(frozen=True, slots=True)
class DestroyNow:
    """An emergency: another identity than the requester agrees, and there is no window."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class ApplyTombstone:
    """The KEK was destroyed before, by two identities, and a restored key store brought it back."""


@dataclass(frozen=True, slots=True)
class ExpireEarlier:
    """The KEK's time ends sooner than was said; which time that is, the back end keeps."""


KekEvent: TypeAlias = (
    Activate
    | Deactivate
    | Suspend
    | Resume
    | Compromise
    | RequestDestroy
    | ApproveDestroy
    | WithdrawDestroy
    | DestroyDue
    | DestroyNow
    | ApplyTombstone
    | ExpireEarlier
)


class Instruction(enum.Enum):
    """What the back end must carry out, in this order, before the new state counts."""

    DISABLE_KEY = "disable-key"
    ENABLE_KEY = "enable-key"
    LEAVE_TOMBSTONE = "leave-tombstone"
    ERASE_KEY = "erase-key"


@dataclass(frozen=True, slots=True)
class KekLife:
    """Where a KEK stands, and who wanted it there. Times are seconds since the Unix epoch."""

    state: KekState = KekState.PRE_ACTIVE
    resumes_as: KekState | None = None
    """What a suspended KEK was, and is again once it is resumed; also while its destruction is pending."""
    withdraws_to: KekState | None = None
    """What a KEK whose destruction is pending was, and is again when that is withdrawn."""
    suspended_by: str | None = None
    suspended_reason: str = ""
    compromised_by: str | None = None
    """Stays after destruction: SP 800-57 calls that "destroyed compromised"."""
    compromised_reason: str = ""
    requested_by: str | None = None
    window_s: float | None = None
    destroy_reason: str = ""
    approved_by: str | None = None
    destroy_at_s: float | None = None

    @property
    def compromised(self) -> bool:
        """Whether somebody said so, whatever became of the KEK since."""
        return self.compromised_by is not None

    def validate(self) -> None:
        """The invariants that hold after every step."""
        state, pending = self.state, self.state is _PENDING
        suspended = _SUSPENDED in (state, self.withdraws_to)
        assert self.approved_by is None or self.requested_by is not None, "approved without a request"
        assert self.approved_by is None or self.approved_by != self.requested_by, "one identity did both"
        assert self.approved_by is None or pending or state is _DESTROYED, "approved, but not on its way out"
        assert (self.window_s is not None) == (self.requested_by is not None), "a window without a request"
        assert pending == (self.destroy_at_s is not None), "a date without a pending destruction"
        assert pending == (self.withdraws_to is not None), "nothing to withdraw to, or without need"
        assert not pending or self.approved_by is not None, "pending without an approval"
        assert self.withdraws_to not in (_PENDING, _DESTROYED), "withdrawn into an end"
        assert suspended == (self.resumes_as is not None), "nothing to resume as, or without need"
        assert suspended == (self.suspended_by is not None), "suspended by nobody, or somebody without need"
        assert self.resumes_as in (None, _PRE_ACTIVE, _ACTIVE, _DEACTIVATED), "resumed into no use"
        known = self.compromised or _COMPROMISED not in (state, self.withdraws_to)
        assert known, "compromised, and nobody said so"
        usable = {state, self.withdraws_to, self.resumes_as} & {_PRE_ACTIVE, _ACTIVE, _DEACTIVATED}
        assert not (self.compromised and usable), "compromised, and yet in use"


def check_life(life: KekLife) -> None:
    """Raises ValueError for a life that no order of steps leads to."""
    try:
        life.validate()
    except AssertionError as error:
        raise ValueError(str(error)) from error


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

MAY_WRAP: Final = frozenset({_ACTIVE})
MAY_UNWRAP: Final = frozenset({_ACTIVE, _DEACTIVATED})
MAY_MOVE: Final = frozenset({_ACTIVE, _DEACTIVATED, _COMPROMISED})
"""In these states a KEK unwraps for whoever moves what survives to another KEK."""

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
            return _not_suspended(replace(life, state=life.resumes_as))
        case Compromise(by, reason):
            return _compromised(ref, life, by, reason)
        case ExpireEarlier():
            return life
        case ApplyTombstone():
            return _ended(life)
        case _:
            return _on_its_way_out(ref, life, event)


def _on_its_way_out(
    ref: KekRef,
    life: KekLife,
    event: RequestDestroy | ApproveDestroy | WithdrawDestroy | DestroyDue | DestroyNow,
) -> KekLife:
    match event:
        case RequestDestroy(by, window_s, reason):
            _check_request(ref, life, by)
            check_window(ref, window_s)
            check_reason(reason, needed=False)
            return replace(life, requested_by=by, window_s=window_s, destroy_reason=reason)
        case ApproveDestroy(by, now_s):
            _check_approval(ref, life, by)
            assert life.window_s is not None
            until_s = now_s + life.window_s
            return replace(
                life, state=_PENDING, withdraws_to=life.state, approved_by=by, destroy_at_s=until_s
            )
        case WithdrawDestroy(by, now_s):
            return _withdrawn(ref, life, by, now_s)
        case DestroyDue(now_s):
            if life.destroy_at_s is None or not now_s >= life.destroy_at_s:
                raise DestroyWindowRefused(
                    f"The window in which the destruction of KEK {ref} can be withdrawn is not over.",
                    hint="Wait for it, or take the emergency path with a second identity.",
                )
            return _ended(life)
        case DestroyNow(by, reason):
            _check_approval(ref, life, by)
            check_reason(reason, needed=False)
            return replace(_ended(life), approved_by=by, destroy_reason=reason or life.destroy_reason)


def _compromised(ref: KekRef, life: KekLife, by: str, reason: str) -> KekLife:
    check_name(by, "identity")
    check_reason(reason, needed=True)
    if life.compromised:
        raise refusal(ref, _COMPROMISED, "is known to be so")
    after = _not_suspended(replace(life, compromised_by=by, compromised_reason=reason))
    if life.state is _PENDING:
        return replace(after, withdraws_to=_COMPROMISED)
    return replace(after, state=_COMPROMISED)


def _withdrawn(ref: KekRef, life: KekLife, by: str, now_s: float) -> KekLife:
    check_name(by, "identity")
    if life.requested_by is None:
        raise DualControlRefused(
            f"Nobody has requested that KEK {ref} be destroyed.", hint="There is nothing to withdraw."
        )
    if life.destroy_at_s is not None and not now_s < life.destroy_at_s:
        raise DestroyWindowRefused(
            f"The window in which the destruction of KEK {ref} could be withdrawn is over.",
            hint="It will be carried out by the next sweep; import or prepare the data anew.",
        )
    return replace(
        life,
        state=life.withdraws_to or life.state,
        withdraws_to=None,
        requested_by=None,
        window_s=None,
        destroy_reason="",
        approved_by=None,
        destroy_at_s=None,
    )


def _not_suspended(life: KekLife) -> KekLife:
    return replace(life, resumes_as=None, suspended_by=None, suspended_reason="")


def _ended(life: KekLife) -> KekLife:
    return _not_suspended(replace(life, state=_DESTROYED, withdraws_to=None, destroy_at_s=None))


def _instructions(before: KekState, after: KekState) -> tuple[Instruction, ...]:
    if after is _DESTROYED:
        return Instruction.LEAVE_TOMBSTONE, Instruction.ERASE_KEY
    if (before in _DISABLED) == (after in _DISABLED):
        return ()
    return (Instruction.DISABLE_KEY,) if after in _DISABLED else (Instruction.ENABLE_KEY,)


def earlier(expires_s: float | None, wanted_s: float) -> float:
    """When a KEK ends that was to end at `expires_s` (None: never) and shall now end at `wanted_s`.

    Never later than before, and what is over stays over: expiry moves in one direction only.
    """
    return wanted_s if expires_s is None else min(expires_s, wanted_s)


def refusal(ref: KekRef, state: KekState, deed: str) -> KeyDestroyed | KeyNotActive:
    """The error for a KEK whose state does not allow `deed`, a phrase such as "wraps nothing"."""
    if state is _DESTROYED:
        return KeyDestroyed(
            f"KEK {ref} has been destroyed.",
            hint="What it sealed cannot be read again; import or prepare the data anew.",
        )
    hints = {
        _SUSPENDED: "Whoever suspended it may resume it once the doubt is cleared.",
        _COMPROMISED: "Move what survives to the next epoch of its scope, then destroy it.",
        _PENDING: "Its destruction can be withdrawn until its window is over.",
    }
    return KeyNotActive(
        f"KEK {ref} is {state} and {deed}.",
        hint=hints.get(state, "Create the next epoch of its scope and use that."),
    )


def check_window(ref: KekRef, window_s: float) -> None:
    """Raises DestroyWindowRefused unless `window_s` lies between MIN_WINDOW_S and MAX_WINDOW_S."""
    if not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S:
        raise DestroyWindowRefused(
            f"The destruction of KEK {ref} was to be withdrawable for {window_s} s.",
            hint=f"Give {MIN_WINDOW_S:.0f} to {MAX_WINDOW_S:.0f} s (7 to 30 days); at once is the emergency "
            "path, with a second identity.",
        )


def check_reason(reason: str, *, needed: bool) -> None:
    """Raises BadReason unless `reason` is one line of at most 500 printable characters."""
    if len(reason) > MAX_REASON_LETTERS or not reason.isprintable() or (needed and not reason.strip()):
        raise BadReason(
            f"A reason of {len(reason)} characters cannot stand in the record.",
            hint=f"Give one line of 1 to {MAX_REASON_LETTERS} printable characters.",
        )


def _check_request(ref: KekRef, life: KekLife, by: str) -> None:
    check_name(by, "identity")
    if life.requested_by is not None and life.requested_by != by:
        raise DualControlRefused(
            f"{life.requested_by} has already requested that KEK {ref} be destroyed.",
            hint=f"Approve that request as {by} instead.",
        )


def _check_approval(ref: KekRef, life: KekLife, by: str) -> None:
    check_name(by, "identity")
    if life.requested_by is None:
        raise DualControlRefused(
            f"Nobody has requested that KEK {ref} be destroyed.",
            hint="One identity requests it, then another one approves.",
        )
    if life.requested_by == by:
        raise DualControlRefused(
            f"{by} requested that KEK {ref} be destroyed, and so cannot approve it.",
            hint="Ask another identity to approve.",
        )
