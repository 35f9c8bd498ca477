"""Destroying a key takes two people; afterwards key store and ledger both say so. See docs/design/keys.md."""

from __future__ import annotations

from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.errors import DualControlRefused
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetState, Role, TombstoneRecord


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
        if info.state is KekState.DESTROYED and str(info.ref) not in stones:
            _record_death(info, actor=info.destroy_approved_by or "unknown", ledger=ledger)


MAY_APPROVE = frozenset({Role.REVIEWER, Role.OPERATOR, Role.ADMIN})


def request_destruction(ref: KekRef, *, actor: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """The first identity's half: asks that `ref` be destroyed. Raises what `request_destroy` raises."""
    requester = ledger.catalogue.identity(actor)
    backend.info(ref)
    with ledger.act(actor=requester.name, action="key.request_destroy", subject=f"key/{ref}", detail={}):
        backend.request_destroy(ref, requester.name)
    return backend.info(ref)


def approve_destruction(ref: KekRef, *, actor: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """The second identity's half: the key is erased, and ledger and key store keep a tombstone.

    Raises DualControlRefused when `actor` asked for it, may not approve, or nobody asked; LedgerUnusable when
    the audit log does not vouch for the actor's role.
    """
    approver = ledger.catalogue.identity(actor)
    if approver.role not in MAY_APPROVE:
        raise DualControlRefused(
            f"{approver.name} is {approver.role.value} and may not approve a destruction.",
            hint="Ask a reviewer, an operator or an admin.",
        )
    ledger.vouch(approver)
    info = backend.destroy(ref, approver.name)
    _record_death(info, actor=approver.name, ledger=ledger)
    return info


def _record_death(info: KekInfo, *, actor: str, ledger: Ledger) -> None:
    datasets = [each for each in ledger.catalogue.datasets() if each.kek == str(info.ref)]
    requester = info.destroy_requested_by or "unknown"
    with ledger.act(
        actor=actor,
        action="key.destroy",
        subject=f"key/{info.ref}",
        detail={"requested_by": requester, "datasets": [each.root for each in datasets]},
    ) as catalogue:
        catalogue.add_tombstone(TombstoneRecord(str(info.ref), requester, actor, info.destroyed_s or 0.0))
        for dataset in datasets:
            if dataset.state is DatasetState.LIVE:
                catalogue.set_dataset_state(dataset.root, DatasetState.DESTROYED)
