"""A lease: which KEKs one holder may use, how, and until when. See docs/design/keys.md, "The agent"."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from stoker.core.clock import iso_utc
from stoker.keys.errors import LeaseExpired, LeaseRefused
from stoker.keys.refs import KekRef


class Use(enum.StrEnum):
    """What is done with a partition key: opening what was sealed, or sealing anew."""

    OPEN = "open"
    SEAL = "seal"


@dataclass(frozen=True, slots=True)
class Lease:
    """Time-limited permission. `expires_s` counts from the Unix epoch; `purpose_text` is for people."""

    id: str
    holder: str
    may_open: frozenset[KekRef]
    may_seal: frozenset[KekRef]
    purpose_text: str
    expires_s: float

    def require(self, use: Use, kek: KekRef, now_s: float) -> None:
        """Raises LeaseExpired at or after the expiry, LeaseRefused unless this use of `kek` is covered."""
        if not now_s < self.expires_s:
            raise LeaseExpired(
                f"Lease {self.id} of {self.holder} expired at {iso_utc(self.expires_s)}.",
                hint="The supervisor renews it while the run may go on; look there for why it did not.",
            )
        if kek not in (self.may_open if use is Use.OPEN else self.may_seal):
            raise LeaseRefused(
                f"Lease {self.id} of {self.holder} does not allow to {use} under KEK {kek}.",
                hint="A run may open its dataset and seal its own checkpoints, and nothing else.",
            )
