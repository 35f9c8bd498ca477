"""Destroying a key takes two people and a window; afterwards key store and ledger both say so.

See docs/design/keys.md, "Life of a key".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.death import REQUEST_ACT, Replica, canary_detail, choose_canary
from stoker.keys.errors import DualControlRefused, KeyActRefused, KeyInUse
from stoker.keys.moves import keeper, moves
from stoker.keys.refs import KekRef
from stoker.keys.states import MIN_WINDOW_S, KekState, check_reason
from stoker.keys.users import MayLive, datasets_of, live_runs, recorded_as_running
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetState, IdentityRecord, Role, TombstoneRecord

APPROVE_ACT: Final = "key.approve_destroy"
WITHDRAW_ACT: Final = "key.withdraw_destroy"
DESTROY_ACT: Final = "key.destroy"

MAY_APPROVE: Final = frozenset({Role.REVIEWER, Role.OPERATOR, Role.ADMIN})


def reconcile_tombstones(*, ledger: Ledger, backend: KeyBackend) -> None:
    """Make key store and ledger agree on what is dead, whichever of them is behind.

    A key store that was restored from a copy loses again what the ledger says is destroyed. A ledger that
    missed a destruction, since its process died in the middle, gets the tombstone that is missing.

    Raises LedgerUnusable, and destroys nothing, for a tombstone that the audit log does not vouch for:
    whoever can only write the database destroys no key.
    """
    recorded = ledger.catalogue.tombstones()
    stones = {stone.kek for stone in recorded}
    keks = backend.list_keks()
    dead = {str(info.ref) for info in keks if info.state is KekState.DESTROYED}
    ledger.vouch(*(stone for stone in recorded if stone.kek not in dead))
    backend.apply_tombstones(stones)
    for info in keks:
        # Without a time the vault has not answered yet: `carry_out_destruction` asks it again.
        ended = info.state is KekState.DESTROYED and info.destroyed_s is not None
        if ended and str(info.ref) not in stones:
            approver = info.destroy_approved_by or "unknown"
            with _death(info, ledger, actor=approver, how="found dead") as record:
                record(info)


def request_destruction(
    ref: KekRef,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    window_s: float = MIN_WINDOW_S,
    reason: str = "",
    replicas: Sequence[Replica] = (),
    may_live: MayLive = recorded_as_running,
) -> KekInfo:
    """The first identity's half: asks that `ref` be destroyed, to be withdrawn for `window_s` once approved.

    Nothing stops working by a request. The act holds a canary: a wrapped key, of a stored stream where there
    is one on `replicas`, that opened just now. Raises what `KeyBackend.request_destroy` raises.
    """
    requester = ledger.catalogue.identity(actor)
    ledger.vouch(requester)
    canary = choose_canary(ref, backend=backend, replicas=replicas)
    detail: dict[str, JsonValue] = {
        "window_s": window_s,
        "reason": reason,
        "runs": list(live_runs(ledger.catalogue, ref, may_live)),
        "canary": canary_detail(canary),
    }
    with ledger.act(actor=requester.name, action=REQUEST_ACT, subject=f"key/{ref}", detail=detail):
        backend.request_destroy(ref, requester.name, window_s=window_s, reason=reason)
    return backend.info(ref)


def approve_destruction(
    ref: KekRef,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    may_live: MayLive = recorded_as_running,
) -> KekInfo:
    """The second identity's half: from now on nothing opens; when the window is over the KEK is destroyed.

    Until then it can be withdrawn. Raises KeyInUse while runs use it, DualControlRefused when `actor` asked
    for it, may not approve, or nobody asked; LedgerUnusable when the audit log does not vouch for the role.
    """
    approver = _approver(actor, ledger)
    before = backend.info(ref)
    detail: dict[str, JsonValue] = {"requested_by": before.destroy_requested_by}
    with ledger.act(
        actor=approver.name, action=APPROVE_ACT, subject=f"key/{ref}", detail=detail
    ) as catalogue:
        # Inside the act, so that a run begins wholly before, and is seen, or wholly after, without a key.
        if runs := live_runs(catalogue, ref, may_live):
            raise KeyInUse(
                f"KEK {ref} is used by {len(runs)} live runs: {', '.join(runs[:5])}.",
                hint="Let them end or cancel them. In an emergency, with a second identity and a reason: "
                f"stoker key destroy {ref} --emergency --reason TEXT",
            )
        backend.approve_destroy(ref, approver.name)
    return backend.info(ref)


def withdraw_destruction(ref: KekRef, *, actor: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """Take a destruction back, as long as its window is not over: the KEK is what it was before.

    Whoever asked for it, whoever approved it, or an admin may. Raises KeyActRefused for anybody else, and
    what `KeyBackend.withdraw_destroy` raises.
    """
    identity = ledger.catalogue.identity(actor)
    info = backend.info(ref)
    concerned = {info.destroy_requested_by, info.destroy_approved_by}
    if identity.name not in concerned and identity.role is not Role.ADMIN:
        raise KeyActRefused(
            f"{identity.name} neither asked for the destruction of KEK {ref} nor approved it.",
            hint="Whoever asked, whoever approved, or an admin may withdraw it.",
        )
    ledger.vouch(identity)
    detail: dict[str, JsonValue] = {
        "requested_by": info.destroy_requested_by,
        "approved_by": info.destroy_approved_by,
    }
    with ledger.act(actor=identity.name, action=WITHDRAW_ACT, subject=f"key/{ref}", detail=detail):
        backend.withdraw_destroy(ref, identity.name)
    return backend.info(ref)


def carry_out_destruction(ref: KekRef, *, actor: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """Destroy a KEK whose window is over; `actor` is who sweeps, and decides nothing.

    Raises DestroyWindowRefused before that, KeyNotActive when no destruction was approved.
    """
    identity = ledger.catalogue.identity(actor)
    before = backend.info(ref)
    with _death(before, ledger, actor=identity.name, how="its window was over") as record:
        return record(backend.destroy_due(ref))


def destroy_in_emergency(
    ref: KekRef,
    *,
    actor: str,
    reason: str,
    ledger: Ledger,
    backend: KeyBackend,
    may_live: MayLive = recorded_as_running,
) -> KekInfo:
    """The second identity's half without a window, and in spite of live runs, which are recorded.

    Another identity's request must stand. Raises DualControlRefused otherwise, and when `actor` may not
    approve; BadReason without a reason; LedgerUnusable when the log does not vouch for the actor's role.
    """
    approver = _approver(actor, ledger)
    check_reason(reason, needed=True)
    runs = live_runs(ledger.catalogue, ref, may_live)
    before = backend.info(ref)
    with _death(before, ledger, actor=approver.name, how="emergency", reason=reason, runs=runs) as record:
        return record(backend.destroy_now(ref, approver.name, reason=reason))


def _approver(actor: str, ledger: Ledger) -> IdentityRecord:
    approver = ledger.catalogue.identity(actor)
    if approver.role not in MAY_APPROVE:
        raise DualControlRefused(
            f"{approver.name} is {approver.role.value} and may not approve a destruction.",
            hint="Ask a reviewer, an operator or an admin.",
        )
    ledger.vouch(approver)
    return approver


@contextmanager
def _death(
    info: KekInfo, ledger: Ledger, *, actor: str, how: str, reason: str = "", runs: Sequence[str] = ()
) -> Iterator[Callable[[KekInfo], KekInfo]]:
    """The act of a KEK's death; what is yielded leaves the tombstone and marks what died with the KEK.

    The log is begun before the key is erased: where nothing can be recorded, nothing is destroyed.
    """
    kek = str(info.ref)
    moved, catalogue = moves(ledger), ledger.catalogue
    gone = {stone.kek for stone in catalogue.tombstones()} | {kek}
    concerned = datasets_of(catalogue, info.ref)
    died = [each for each in concerned if {each.kek, keeper(each.kek, moved)} <= gone]
    detail: dict[str, JsonValue] = {
        "how": how,
        "requested_by": info.destroy_requested_by or "unknown",
        "reason": reason,
        "runs": list(runs),
        "datasets": [each.root for each in died],
        "survivors": keeper(kek, moved) if keeper(kek, moved) not in gone else None,
    }
    with ledger.act(actor=actor, action=DESTROY_ACT, subject=f"key/{kek}", detail=detail) as writing:

        def record(after: KekInfo) -> KekInfo:
            requester = after.destroy_requested_by or "unknown"
            approver = after.destroy_approved_by or actor
            stone = TombstoneRecord(kek, requester, approver, after.destroyed_s or 0.0)
            writing.add_tombstone(stone)
            for dataset in died:
                if dataset.state is DatasetState.LIVE:
                    writing.set_dataset_state(dataset.root, DatasetState.DESTROYED)
            return after

        yield record
