"""The life of a KEK, after NIST SP 800-57 part 1, section 7: a pure table. See docs/design/keys.md, "States".

`step(life, event)` says what follows and what the back end must do; it reads no clock and touches no file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from stoker.core.ids import check_name
from stoker.keys.errors import DualControlRefused, KeyDestroyed, KeyNotActive
from stoker.keys.refs import KekRef


class KekState(enum.StrEnum):
    """Active wraps and unwraps; deactivated only unwraps; the other two do neither."""

    PRE_ACTIVE = "pre-active"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Activate:
    """The KEK begins to wrap."""


@dataclass(frozen=True, slots=True)
class Deactivate:
    """The KEK wraps no more."""


@dataclass(frozen=True, slots=True)
class RequestDestroy:
    """One identity asks that the KEK be destroyed."""

    by: str


@dataclass(frozen=True, slots=True)
class ApproveDestroy:
    """Another identity agrees."""

    by: str


@dataclass(frozen=True, slots=True)
class ApplyTombstone:
    """The KEK was destroyed before, by two identities, and a restored key store brought it back."""


@dataclass(frozen=True, slots=True)
class ExpireEarlier:
    """The KEK's time ends sooner than was said; which time that is, the back end keeps."""


KekEvent: TypeAlias = Activate | Deactivate | RequestDestroy | ApproveDestroy | ApplyTombstone | ExpireEarlier


class Instruction(enum.Enum):
    """What the back end must carry out, in this order, before the new state counts."""

    LEAVE_TOMBSTONE = "leave-tombstone"
    ERASE_KEY = "erase-key"


@dataclass(frozen=True, slots=True)
class KekLife:
    """Where a KEK stands, and who asked for its end and who agreed."""

    state: KekState = KekState.PRE_ACTIVE
    requested_by: str | None = None
    approved_by: str | None = None

    def validate(self) -> None:
        """The invariants that hold after every step."""
        assert self.approved_by is None or self.requested_by is not None, "approved without a request"
        assert self.approved_by is None or self.approved_by != self.requested_by, "one identity did both"
        assert self.approved_by is None or self.state is KekState.DESTROYED, "approved but not destroyed"


_PRE_ACTIVE, _ACTIVE = KekState.PRE_ACTIVE, KekState.ACTIVE
_DEACTIVATED, _DESTROYED = KekState.DEACTIVATED, KekState.DESTROYED

TRANSITIONS: Final[dict[tuple[KekState, type[KekEvent]], KekState]] = {
    (_PRE_ACTIVE, Activate): _ACTIVE,
    (_ACTIVE, Deactivate): _DEACTIVATED,
    (_PRE_ACTIVE, RequestDestroy): _PRE_ACTIVE,
    (_ACTIVE, RequestDestroy): _ACTIVE,
    (_DEACTIVATED, RequestDestroy): _DEACTIVATED,
    (_PRE_ACTIVE, ApproveDestroy): _DESTROYED,
    (_ACTIVE, ApproveDestroy): _DESTROYED,
    (_DEACTIVATED, ApproveDestroy): _DESTROYED,
    (_PRE_ACTIVE, ApplyTombstone): _DESTROYED,
    (_ACTIVE, ApplyTombstone): _DESTROYED,
    (_DEACTIVATED, ApplyTombstone): _DESTROYED,
    (_PRE_ACTIVE, ExpireEarlier): _PRE_ACTIVE,
    (_ACTIVE, ExpireEarlier): _ACTIVE,
    (_DEACTIVATED, ExpireEarlier): _DEACTIVATED,
}
"""Every step that exists; whatever is not here is refused. Nothing leaves DESTROYED."""

MAY_WRAP: Final = frozenset({_ACTIVE})
MAY_UNWRAP: Final = frozenset({_ACTIVE, _DEACTIVATED})


def step(ref: KekRef, life: KekLife, event: KekEvent) -> tuple[KekLife, tuple[Instruction, ...]]:
    """What `event` makes of `life`, and what must be done for it.

    Raises KeyDestroyed, KeyNotActive, DualControlRefused, or BadName for an identity that is no name: names
    are lower-case ASCII, so no two spellings of one identity exist, and identities are compared byte by byte.
    """
    following = TRANSITIONS.get((life.state, type(event)))
    if following is None:
        raise refusal(ref, life.state, f"takes no {type(event).__name__}")
    instructions: tuple[Instruction, ...] = ()
    match event:
        case RequestDestroy(by):
            _check_request(ref, life, by)
            after = replace(life, state=following, requested_by=by)
        case ApproveDestroy(by):
            _check_approval(ref, life, by)
            after = replace(life, state=following, approved_by=by)
        case _:
            after = replace(life, state=following)
    if following is _DESTROYED:
        instructions = (Instruction.LEAVE_TOMBSTONE, Instruction.ERASE_KEY)
    after.validate()
    return after, instructions


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
    return KeyNotActive(
        f"KEK {ref} is {state} and {deed}.", hint="Create the next epoch of its scope and use that."
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
