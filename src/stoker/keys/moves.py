"""Which KEKs have handed what survives to a later epoch, as the ledger tells it. See docs/design/keys.md.

A KEK that was destroyed after its survivors were moved took nothing with it that still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stoker.ledger.ledger import Ledger

REWRAP_ACT: Final = "key.rewrap"


def moves(ledger: Ledger) -> Mapping[str, str]:
    """By KEK, the KEK that all its survivors were last moved to. A move that left something out is none."""
    found: dict[str, str] = {}
    for entry in ledger.audit.acts({REWRAP_ACT}):
        kek, to = entry.subject.removeprefix("key/"), entry.detail.get("to")
        if isinstance(to, str) and entry.detail.get("left") == 0:
            found[kek] = to
    return found


def keeper(kek: str, moved: Mapping[str, str]) -> str:
    """The KEK under which the survivors of `kek` lie now: `kek` itself when they were never moved."""
    seen = {kek}
    while kek in moved and moved[kek] not in seen:
        kek = moved[kek]
        seen.add(kek)
    return kek


def is_gone(ledger: Ledger, kek: str) -> bool:
    """Whether nothing opens any more what `kek` sealed: the KEK that keeps its survivors has a tombstone."""
    catalogue = ledger.catalogue
    return catalogue.is_tombstoned(kek) and catalogue.is_tombstoned(keeper(kek, moves(ledger)))
