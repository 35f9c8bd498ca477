"""What can happen to a KEK. Where time matters, the event brings it. See docs/design/keys.md, "States"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from stoker.keys.states import MIN_WINDOW_S


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
