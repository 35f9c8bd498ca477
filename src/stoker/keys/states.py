"""Where a KEK stands, after NIST SP 800-57 part 1, section 7. See docs/design/keys.md, "States".

What leads from one state to another is in `transitions.py`; what ends a KEK for good, in `dual_control.py`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from stoker.keys.errors import BadReason, KeyDestroyed, KeyNotActive
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


_PRE_ACTIVE, _ACTIVE, _DEACTIVATED = KekState.PRE_ACTIVE, KekState.ACTIVE, KekState.DEACTIVATED
_SUSPENDED, _COMPROMISED = KekState.SUSPENDED, KekState.COMPROMISED
_PENDING, _DESTROYED = KekState.PENDING_DESTROY, KekState.DESTROYED

MAY_WRAP: Final = frozenset({_ACTIVE})
MAY_UNWRAP: Final = frozenset({_ACTIVE, _DEACTIVATED})
MAY_MOVE: Final = frozenset({_ACTIVE, _DEACTIVATED, _COMPROMISED})
"""In these states a KEK unwraps for whoever moves what survives to another KEK."""


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


def check_reason(reason: str, *, needed: bool) -> None:
    """Raises BadReason unless `reason` is one line of at most 500 printable characters."""
    if len(reason) > MAX_REASON_LETTERS or not reason.isprintable() or (needed and not reason.strip()):
        raise BadReason(
            f"A reason of {len(reason)} characters cannot stand in the record.",
            hint=f"Give one line of 1 to {MAX_REASON_LETTERS} printable characters.",
        )
