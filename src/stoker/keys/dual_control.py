"""Ending a KEK: one identity asks, another agrees, and for a window it can be taken back. Pure.

Nobody destroys anything alone: whoever asked may not agree, and the emergency path only has no window. See
docs/design/keys.md, "States", "Two identities" and "Destroying".
"""

from __future__ import annotations

from dataclasses import replace

from stoker.core.ids import check_name
from stoker.keys.errors import DestroyWindowRefused, DualControlRefused
from stoker.keys.key_events import (
    ApproveDestroy,
    DestroyDue,
    DestroyNow,
    RequestDestroy,
    WithdrawDestroy,
)
from stoker.keys.refs import KekRef
from stoker.keys.states import MAX_WINDOW_S, MIN_WINDOW_S, KekLife, KekState, check_reason


def on_its_way_out(
    ref: KekRef,
    life: KekLife,
    event: RequestDestroy | ApproveDestroy | WithdrawDestroy | DestroyDue | DestroyNow,
) -> KekLife:
    """What `event` makes of a KEK that somebody wants destroyed, or no longer wants destroyed.

    Raises DualControlRefused, DestroyWindowRefused, BadReason or BadName.
    """
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
                life,
                state=KekState.PENDING_DESTROY,
                withdraws_to=life.state,
                approved_by=by,
                destroy_at_s=until_s,
            )
        case WithdrawDestroy(by, now_s):
            return _withdrawn(ref, life, by, now_s)
        case DestroyDue(now_s):
            if life.destroy_at_s is None or not now_s >= life.destroy_at_s:
                raise DestroyWindowRefused(
                    f"The window in which the destruction of KEK {ref} can be withdrawn is not over.",
                    hint="Wait for it, or take the emergency path with a second identity.",
                )
            return ended(life)
        case DestroyNow(by, reason):
            _check_approval(ref, life, by)
            check_reason(reason, needed=False)
            return replace(ended(life), approved_by=by, destroy_reason=reason or life.destroy_reason)


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


def ended(life: KekLife) -> KekLife:
    """The KEK is destroyed; what is known of it stays."""
    return not_suspended(replace(life, state=KekState.DESTROYED, withdraws_to=None, destroy_at_s=None))


def not_suspended(life: KekLife) -> KekLife:
    """No doubt is left to be cleared."""
    return replace(life, resumes_as=None, suspended_by=None, suspended_reason="")


def check_window(ref: KekRef, window_s: float) -> None:
    """Raises DestroyWindowRefused unless `window_s` lies between MIN_WINDOW_S and MAX_WINDOW_S."""
    if not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S:
        raise DestroyWindowRefused(
            f"The destruction of KEK {ref} was to be withdrawable for {window_s} s.",
            hint=f"Give {MIN_WINDOW_S:.0f} to {MAX_WINDOW_S:.0f} s (7 to 30 days); at once is the emergency "
            "path, with a second identity.",
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
