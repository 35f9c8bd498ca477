"""A key's death by the emergency path, for tests of what comes after it."""

from __future__ import annotations

from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.destruction import destroy_in_emergency, request_destruction
from stoker.keys.refs import KekRef
from stoker.ledger.ledger import Ledger


def destroy_at_once(
    kek: KekRef | str, *, ledger: Ledger, backend: KeyBackend, asker: str = "asker", decider: str = "decider"
) -> KekInfo:
    """`asker` asks, `decider` agrees, and no window is waited for."""
    ref = kek if isinstance(kek, KekRef) else KekRef.parse(kek)
    request_destruction(ref, actor=asker, ledger=ledger, backend=backend)
    return destroy_in_emergency(ref, actor=decider, reason="a test", ledger=ledger, backend=backend)
