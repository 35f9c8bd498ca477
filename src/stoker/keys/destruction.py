"""Destroying a key takes two people; afterwards key store and ledger both say so. See docs/design/keys.md."""

from __future__ import annotations

from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.errors import DualControlRefused
from stoker.keys.refs import KekRef
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetState, Role, TombstoneRecord

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

    Raises DualControlRefused when `actor` asked for it, may not approve, or nobody asked.
    """
    approver = ledger.catalogue.identity(actor)
    if approver.role not in MAY_APPROVE:
        raise DualControlRefused(
            f"{approver.name} is {approver.role.value} and may not approve a destruction.",
            hint="Ask a reviewer, an operator or an admin.",
        )
    requester = backend.info(ref).destroy_requested_by
    datasets = [each for each in ledger.catalogue.datasets() if each.kek == str(ref)]
    with ledger.act(
        actor=approver.name,
        action="key.destroy",
        subject=f"key/{ref}",
        detail={"requested_by": requester, "datasets": [each.root for each in datasets]},
    ) as catalogue:
        info = backend.destroy(ref, approver.name)
        catalogue.add_tombstone(
            TombstoneRecord(str(ref), requester or "", approver.name, info.destroyed_s or 0.0)
        )
        for dataset in datasets:
            catalogue.set_dataset_state(dataset.root, DatasetState.DESTROYED)
    return info
