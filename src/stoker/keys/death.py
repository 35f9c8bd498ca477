"""Proof of death: what a destroyed KEK sealed is tried on every replica, and what was seen is recorded.

A refusal proves something only when the same thing opened before. So a request to destroy records a canary:
a wrapped key that just opened. After the destruction the canary, and the streams that lie on each replica,
are tried again. See docs/design/keys.md, "Proof of death".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import StokerError
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import DeathNotProved, KeyDestroyed, KeyUnknown
from stoker.keys.partition import BackendKeySource, partition_context
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.states import MAY_MOVE, KekState
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry

PROVE_ACT: Final = "key.prove"
REQUEST_ACT: Final = "key.request_destroy"
KEY_BACKEND: Final = "key back end"
VAULT: Final = "vault"

_SHOWN: Final = 5


class Outcome(enum.StrEnum):
    """What a replica showed."""

    REFUSED = "refused"
    """Something was there, and none of it opened, because the KEK is dead."""

    ABSENT = "absent"
    """Nothing of the KEK's is there."""

    OPENED = "opened"
    """Something opened: the KEK is not dead."""

    UNUSABLE = "unusable"
    """It opens nothing now, and is erased only at a date: until then somebody may call it back."""

    UNTRIED = "untried"
    """Something could not be tried, so nothing is proved here."""


_NOTHING_OPENS: Final = frozenset({Outcome.REFUSED, Outcome.ABSENT, Outcome.UNUSABLE})


@dataclass(frozen=True, slots=True)
class Trial:
    """What was tried on one replica. `refused` counts refusals by error; the rest names up to five things.

    `erased_s` is set where the vault only schedules erasures: until then, in seconds since the Unix epoch,
    the KEK can be called back. None: nothing is scheduled. `tried_s` is set where this was tried before, on
    another node, which alone can try it. None: it was tried now.
    """

    replica: str
    outcome: Outcome
    tried: int
    refused: Mapping[str, int]
    opened: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    erased_s: float | None = None
    tried_s: float | None = None

    @classmethod
    def of(
        cls, replica: str, refusals: Iterable[str], opened: Sequence[str] = (), untried: Sequence[str] = ()
    ) -> Trial:
        """Judge what was seen: whatever opened outweighs what could not be tried, and that a refusal."""
        refused: dict[str, int] = {}
        for each in refusals:
            refused[each] = refused.get(each, 0) + 1
        tried = sum(refused.values()) + len(opened)
        if opened:
            outcome = Outcome.OPENED
        elif untried:
            outcome = Outcome.UNTRIED
        else:
            outcome = Outcome.REFUSED if refused else Outcome.ABSENT
        return cls(replica, outcome, tried, refused, tuple(opened[:_SHOWN]), tuple(untried[:_SHOWN]))

    @property
    def seen(self) -> str:
        """For people: one line."""
        return self._seen if self.tried_s is None else f"{self._seen}; tried there at {iso_utc(self.tried_s)}"

    @property
    def _seen(self) -> str:
        match self.outcome:
            case Outcome.OPENED:
                return f"{', '.join(self.opened)} opened"
            case Outcome.UNUSABLE:
                return (
                    f"unusable until {iso_utc(self.erased_s or 0.0)}, then deleted; can be called back before"
                )
            case Outcome.UNTRIED:
                return "; ".join(self.untried)
            case Outcome.ABSENT:
                return "nothing of it is there"
        return ", ".join(f"{count} refused ({error})" for error, count in self.refused.items())


class Replica(Protocol):
    """A place where sealed bytes may lie: the store, a node's cache, another store with a copy."""

    @property
    def name(self) -> str:
        """For people, without credentials."""
        ...

    def canary(self, kek: KekRef) -> Canary | None:
        """A wrapped key that the KEK keeps there: of a stream that it sealed, or one that was moved to it.

        None when there is none. Raises StokerError.
        """
        ...

    def try_opening(self, kek: KekRef) -> Trial:
        """Try to open what lies there under the KEK, as one would who has the replica and the key store.

        What cannot be reached or read is untried, never refused.
        """
        ...


@dataclass(frozen=True, slots=True)
class Canary:
    """A partition key as the KEK wrapped it, and the wrap context. It opens only what lies in the store."""

    where: str
    wrapped: bytes
    context: bytes


@dataclass(frozen=True, slots=True)
class DeathProof:
    """What was tried after a KEK's death, when and where. `canary` tells what had opened before."""

    kind: ClassVar[str] = "key-proof"
    version: ClassVar[int] = 1

    kek: str
    destroyed_s: float | None
    proved_s: float
    canary: str | None
    trials: tuple[Trial, ...]

    @property
    def holds(self) -> bool:
        """Whether something was refused, nothing opened and nothing is left untried.

        It may hold for the time being only: see `erased_s`.
        """
        outcomes = {trial.outcome for trial in self.trials}
        return Outcome.REFUSED in outcomes and outcomes <= _NOTHING_OPENS

    @property
    def erased_s(self) -> float | None:
        """When a vault that schedules erasures will have erased the KEK, and its death is to be tried again.

        None once nothing is left to wait for: then the KEK is destroyed, not only unusable.
        """
        waiting = [trial.erased_s for trial in self.trials if trial.erased_s is not None]
        return max(waiting, default=None)

    @property
    def verdict(self) -> str:
        """For people: what was proved, in a few words."""
        if not self.holds:
            return "does not hold"
        if self.erased_s is None:
            return "holds"
        return f"holds for now: unusable until {iso_utc(self.erased_s)}, then deleted"


def choose_canary(ref: KekRef, *, backend: KeyBackend, replicas: Sequence[Replica] = ()) -> Canary | None:
    """A wrapped key of `ref` that opens now; None when there is none, or it does not open any more.

    It is the key of a stored stream where one lies (a compromised KEK opens it too, as for moving it); else,
    when the KEK still wraps, a fresh random key, which seals nothing. A replica that cannot be reached is
    passed over.
    """
    info = backend.info(ref)
    if info.state not in MAY_MOVE:
        return None
    keys = BackendKeySource(backend)
    for replica in replicas:
        try:
            canary = replica.canary(ref)
            if canary is not None:
                backend.unwrap(ref, canary.wrapped, canary.context, moving=True).wipe()
                return canary
        except StokerError:
            continue
    try:
        fresh, wrapped = keys.new_partition_key(ref, info.purpose)
        fresh.wipe()
        keys.open_partition_key(ref, wrapped, info.purpose).wipe()
    except StokerError:
        return None
    return Canary("a key that was wrapped for this", wrapped, partition_context(ref, info.purpose))


def canary_detail(canary: Canary | None) -> JsonValue:
    """What a request to destroy records of its canary. A wrapped key is public: it lies in stored headers."""
    if canary is None:
        return None
    return {"where": canary.where, "wrapped": canary.wrapped.hex(), "context": canary.context.hex()}


def recorded_canary(ledger: Ledger, ref: KekRef) -> Canary | None:
    """The canary of the newest request to destroy `ref` that recorded one."""
    for entry in reversed(ledger.audit.acts({REQUEST_ACT}, f"key/{ref}")):
        found = entry.detail.get("canary")
        if isinstance(found, dict):
            try:
                context = found.get("context")
                if context is None:  # as it was recorded before keys that were moved were canaries too
                    context = partition_context(ref, Purpose(str(found.get("purpose")))).hex()
                return Canary(
                    str(found.get("where")), bytes.fromhex(str(found.get("wrapped"))), bytes.fromhex(context)
                )
            except (ValueError, TypeError):
                continue
    return None


def try_death(
    ref: KekRef, *, ledger: Ledger, backend: KeyBackend, replicas: Sequence[Replica], clock: Clock
) -> DeathProof:
    """Try now, and record nothing: the canary against the key back end, and what lies on each replica.

    Pass the back end that knows nothing of rewrapped keys, or survivors would seem to have come back.
    Raises DeathNotProved for a KEK that is not destroyed.
    """
    destroyed_s = _death_of(ref, ledger, backend)
    canary = recorded_canary(ledger, ref)
    trials = [_try_canary(ref, canary, backend), _ask_vault(ref, backend)]
    trials += [replica.try_opening(ref) for replica in replicas]
    return DeathProof(
        str(ref), destroyed_s, clock.now_s(), None if canary is None else canary.where, tuple(trials)
    )


def prove_death(
    ref: KekRef,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    replicas: Sequence[Replica],
    clock: Clock,
) -> DeathProof:
    """Try to open what the destroyed KEK `ref` sealed, everywhere, and record what was seen.

    A proof that does not hold is recorded too, and returned: something is not dead, or could not be tried.
    Raises DeathNotProved for a KEK that is not destroyed, UnknownIdentity, and what the ledger raises.
    """
    identity = ledger.catalogue.identity(actor)
    proof = try_death(ref, ledger=ledger, backend=backend, replicas=replicas, clock=clock)
    with ledger.act(actor=identity.name, action=PROVE_ACT, subject=f"key/{ref}", detail=_proof_detail(proof)):
        pass
    return proof


def recorded_proofs(ledger: Ledger, ref: KekRef | None = None) -> dict[str, DeathProof]:
    """The newest recorded proof of each KEK, or of `ref` alone, whether it holds or not."""
    return {proof.kek: proof for proof in all_proofs(ledger, ref)}


def all_proofs(ledger: Ledger, ref: KekRef | None = None) -> tuple[DeathProof, ...]:
    """Every recorded proof, or those of `ref` alone, oldest first."""
    subject = None if ref is None else f"key/{ref}"
    proofs = (_proof_of(entry) for entry in ledger.audit.acts({PROVE_ACT}, subject))
    return tuple(proof for proof in proofs if proof is not None)


def _death_of(ref: KekRef, ledger: Ledger, backend: KeyBackend) -> float | None:
    for stone in ledger.catalogue.tombstones():
        if stone.kek == str(ref):
            return stone.destroyed_s
    try:
        info = backend.info(ref)
    except KeyDestroyed:
        return None
    if info.state is not KekState.DESTROYED:
        raise DeathNotProved(
            f"KEK {ref} is {info.state}, not destroyed: there is no death to prove.",
            hint=f"Destroying takes two identities: stoker key destroy {ref}",
        )
    return info.destroyed_s


def _try_canary(ref: KekRef, canary: Canary | None, backend: KeyBackend) -> Trial:
    """The canary's unwrap against the back end itself; without a canary, an unwrap of nothing."""
    wrapped, context = (b"", b"") if canary is None else (canary.wrapped, canary.context)
    try:
        backend.unwrap(ref, wrapped, context).wipe()
    except (KeyDestroyed, KeyUnknown) as refusal:
        return Trial.of(KEY_BACKEND, [refusal.id])
    except StokerError as error:
        return Trial.of(KEY_BACKEND, (), untried=[f"{error.id}: {error.message}"])
    return Trial.of(KEY_BACKEND, (), opened=["the canary"])


def _ask_vault(ref: KekRef, backend: KeyBackend) -> Trial:
    """Whether the vault itself still has the KEK: a refusal above may be the registry's alone."""
    try:
        erased_s = backend.vault_erases_at_s(ref)
        if erased_s is not None:
            return Trial(VAULT, Outcome.UNUSABLE, 1, {"its deletion is scheduled": 1}, erased_s=erased_s)
        if not backend.vault_has(ref):
            return Trial.of(VAULT, ["it has no such key"])
    except KeyUnknown:
        return Trial.of(VAULT, ["it has no such key"])
    except StokerError as error:
        return Trial.of(VAULT, (), untried=[f"{error.id}: {error.message}"])
    return Trial.of(VAULT, (), untried=["the vault still has the key"])


def _proof_detail(proof: DeathProof) -> dict[str, JsonValue]:
    return {
        "holds": proof.holds,
        "destroyed_s": proof.destroyed_s,
        "proved_s": proof.proved_s,
        "canary": proof.canary,
        "trials": [
            {
                "replica": trial.replica,
                "outcome": trial.outcome.value,
                "tried": trial.tried,
                "refused": dict(trial.refused),
                "opened": list(trial.opened),
                "untried": list(trial.untried),
                "erased_s": trial.erased_s,
                "tried_s": trial.tried_s,
            }
            for trial in proof.trials
        ],
    }


def _proof_of(entry: AuditEntry) -> DeathProof | None:
    """The proof that an entry recorded; None when the entry is of another form."""
    detail: Mapping[str, Any] = entry.detail
    try:
        trials = tuple(
            Trial(
                str(each["replica"]),
                Outcome(each["outcome"]),
                int(each["tried"]),
                {str(name): int(count) for name, count in each["refused"].items()},
                tuple(str(name) for name in each["opened"]),
                tuple(str(name) for name in each["untried"]),
                *(None if each.get(name) is None else float(each[name]) for name in ("erased_s", "tried_s")),
            )
            for each in detail["trials"]
        )
        destroyed_s, canary = detail["destroyed_s"], detail["canary"]
        return DeathProof(
            entry.subject.removeprefix("key/"),
            None if destroyed_s is None else float(destroyed_s),
            float(detail["proved_s"]),
            None if canary is None else str(canary),
            trials,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
