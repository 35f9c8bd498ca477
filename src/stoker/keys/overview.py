"""Every key as people see it: state, periods, whom it concerns, what is coming. See docs/design/keys.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from stoker.core.clock import Clock, iso_utc
from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.death import DeathProof, recorded_proofs
from stoker.keys.moves import keeper, moves
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.keys.sweep import KeyWarning, gather_facts, warnings_of
from stoker.keys.users import People, live_runs, people_by_scope
from stoker.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One KEK without its bytes. Times are seconds since the Unix epoch.

    From `activates_s` to `wraps_until_s` it seals (originator-usage period), to `expires_s` it opens
    (recipient-usage period). `survivors` is the KEK that keeps what it had sealed, once that was moved.
    `proof` is empty until its death was tried; `note` says in a line what a person should know.
    """

    kek: str
    purpose: str
    state: str
    created_s: float
    activates_s: float
    wraps_until_s: float
    expires_s: float | None
    destroy_requested_by: str | None
    destroy_approved_by: str | None
    destroy_at_s: float | None
    destroyed_s: float | None
    suspended_by: str | None
    compromised_by: str | None
    reason: str
    wraps: int
    vault: str
    owner: str | None
    reviewer: str | None
    runs: tuple[str, ...]
    survivors: str | None
    proof: str
    warnings: tuple[KeyWarning, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys concerned, in order of scope and epoch."""

    kind: ClassVar[str] = "keys"
    version: ClassVar[int] = 2

    keys: tuple[KeyRow, ...]


def overview(*, ledger: Ledger, backend: KeyBackend, clock: Clock, only: Iterable[KekRef] = ()) -> Keys:
    """Every KEK, destroyed ones too; or those in `only`, in that order. Raises KeyUnknown."""
    now_s = clock.now_s()
    chosen = tuple(only)
    infos = [backend.info(ref) for ref in chosen] if chosen else list(backend.list_keks())
    people, moved = people_by_scope(ledger.catalogue), moves(ledger)
    proofs = recorded_proofs(ledger)
    coming: dict[str, list[KeyWarning]] = {}
    for warning in warnings_of(gather_facts(ledger, backend), now_s):
        coming.setdefault(warning.kek, []).append(warning)
    rows = []
    for info in infos:
        kek = str(info.ref)
        concerned = people.get(info.ref.scope, People())
        proof = proofs.get(kek)
        warnings = tuple(coming.get(kek, ()))
        survivors = keeper(kek, moved)
        rows.append(
            KeyRow(
                kek=kek,
                purpose=info.purpose.value,
                state=info.state.value,
                created_s=info.created_s,
                activates_s=info.activates_s,
                wraps_until_s=info.wraps_until_s,
                expires_s=info.expires_s,
                destroy_requested_by=info.destroy_requested_by,
                destroy_approved_by=info.destroy_approved_by,
                destroy_at_s=info.destroy_at_s,
                destroyed_s=info.destroyed_s,
                suspended_by=info.suspended_by,
                compromised_by=info.compromised_by,
                reason=info.destroy_reason or info.suspended_reason or info.compromised_reason,
                wraps=info.wraps,
                vault=info.vault,
                owner=concerned.owner,
                reviewer=concerned.reviewer,
                runs=live_runs(ledger.catalogue, info.ref),
                survivors=None if survivors == kek else survivors,
                proof="" if proof is None else proof.verdict,
                warnings=warnings,
                note=_note(info, warnings, now_s, proof),
            )
        )
    return Keys(tuple(rows))


def _note(info: KekInfo, warnings: tuple[KeyWarning, ...], now_s: float, proof: DeathProof | None) -> str:
    """The one thing that matters most now."""
    if info.state is KekState.DESTROYED:
        if proof is None:
            return "dead; not proved yet: stoker key sweep"
        if proof.erased_s is not None and proof.holds:
            return f"dead for now; the proof {proof.verdict}"
        return "dead, and proved" if proof.holds else "dead, but the proof does not hold"
    if warnings:
        return warnings[0].detail
    if info.destroy_requested_by is not None:
        return f"{info.destroy_requested_by} asks that it be destroyed; another identity may approve"
    if info.suspended_by is not None:
        return f"suspended by {info.suspended_by}: {info.suspended_reason}"
    if info.compromised_by is not None:
        return (
            f"compromised, says {info.compromised_by}: rotate, move what survives, prepare it anew, destroy"
        )
    if info.expires_s is not None and now_s >= info.expires_s:
        return f"expired at {iso_utc(info.expires_s)}; two identities may destroy it"
    return ""
