"""An identity: a name and a role in the ledger, and a signing key in the key store."""

from __future__ import annotations

from stoker.core.clock import Clock
from stoker.core.ids import check_name
from stoker.core.signing import Signer
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import IdentityRecord, Role


def identity_signer(backend: KeyBackend, name: str) -> Signer:
    """The signer of the identity `name`; its public half stands in the ledger."""
    return backend.signer(f"identity/{name}")


def create_identity(
    name: str, role: Role, *, actor: str | None, ledger: Ledger, backend: KeyBackend, clock: Clock
) -> IdentityRecord:
    """Make `name` known with `role`. `actor` is who does it; None is the person at the machine.

    Raises BadName when `name` is not a name, and the ledger's error when it is taken.
    """
    check_name(name, "identity")
    record = IdentityRecord(name, role, identity_signer(backend, name).public_key, clock.now_s())
    with ledger.act(
        actor=actor or name,
        action="identity.create",
        subject=f"identity/{name}",
        detail={"role": role.value, "public_key": record.public_key.hex()},
    ) as catalogue:
        catalogue.add_identity(record)
    return record
