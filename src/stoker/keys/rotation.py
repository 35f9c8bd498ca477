"""Rotation: a scope's next epoch seals from now on, the one before only opens. See docs/design/keys.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from stoker.core.canonical import JsonValue
from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.errors import KeyInUse, KeyUnknown
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.states import KekState
from stoker.keys.users import MayLive, datasets_of, live_runs, recorded_as_running
from stoker.ledger.ledger import Ledger

ROTATE_ACT: Final = "key.rotate"
SUSPEND_ACT: Final = "key.suspend"
RESUME_ACT: Final = "key.resume"
COMPROMISE_ACT: Final = "key.compromise"


@dataclass(frozen=True, slots=True)
class Rotation:
    """The KEK that sealed until now, and the one that does from now on; `after` is None with a dry run."""

    kind: ClassVar[str] = "key-rotation"
    version: ClassVar[int] = 1

    before: str
    after: str | None
    expires_s: float | None
    dry_run: bool = False


def newest_epoch(backend: KeyBackend, scope: str) -> KekRef | None:
    """The highest epoch of `scope` that the key store knows; None when it knows none."""
    return max((info.ref for info in backend.list_keks() if info.ref.scope == scope), default=None)


def sealing_kek(backend: KeyBackend, recorded: KekRef) -> KekRef:
    """The KEK to seal under for what a record says is sealed under `recorded`: its scope's active epoch.

    `recorded` itself when no epoch is active, so that sealing says why it cannot.
    """
    infos = [info for info in backend.list_keks() if info.ref.scope == recorded.scope]
    active = [info.ref for info in infos if info.state is KekState.ACTIVE]
    return max(active, default=recorded)


def epochs_of(backend: KeyBackend, recorded: KekRef) -> tuple[KekRef, ...]:
    """Every epoch of the scope of `recorded` that is not destroyed, in order; never fewer than `recorded`."""
    infos = [info for info in backend.list_keks() if info.ref.scope == recorded.scope]
    living = {info.ref for info in infos if info.state is not KekState.DESTROYED}
    return tuple(sorted(living | ({recorded} if not living else set())))


def may_be_known(backend: KeyBackend, recorded: KekRef) -> bool:
    """Whether others may have the partition keys that `recorded` wrapped.

    They may once it, or a later epoch to which they may have been moved, counts as compromised: a move makes
    no new partition keys.
    """
    return any(
        info.compromised
        for info in backend.list_keks()
        if info.ref.scope == recorded.scope and info.ref.epoch >= recorded.epoch
    )


def rotate_key(
    scope: str,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    may_live: MayLive = recorded_as_running,
    dry_run: bool = False,
) -> Rotation:
    """Make the next epoch of `scope` and let it seal from now on; what the one before sealed still opens.

    The new KEK expires when the one before does: a rotation gives data no more time. Raises KeyUnknown for a
    scope without a key, KeyInUse while a run or a preparation seals under it, and what
    `KeyBackend.rotate` raises.
    """
    identity = ledger.catalogue.identity(actor)
    before = newest_epoch(backend, scope)
    if before is None:
        raise KeyUnknown(
            f"The key store holds no KEK of {scope[:200]!a}.", hint="`stoker key ls` shows those it holds."
        )
    info = backend.info(before)
    if dry_run:
        _require_idle(info, ledger, may_live)
        return Rotation(str(before), None, info.expires_s, dry_run=True)
    detail: dict[str, JsonValue] = {"before": str(before), "expires_s": info.expires_s}
    with ledger.act(actor=identity.name, action=ROTATE_ACT, subject=f"key/{before}", detail=detail):
        _require_idle(info, ledger, may_live)
        after = backend.rotate(scope, expires_s=info.expires_s)
    return Rotation(str(before), str(after), info.expires_s)


def suspend_key(ref: KekRef, *, actor: str, reason: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """Let nothing wrap or unwrap until it is resumed, while a doubt is cleared. Live runs stop at it."""
    identity = ledger.catalogue.identity(actor)
    runs: list[JsonValue] = list(live_runs(ledger.catalogue, ref))
    detail: dict[str, JsonValue] = {"reason": reason, "runs": runs}
    with ledger.act(actor=identity.name, action=SUSPEND_ACT, subject=f"key/{ref}", detail=detail):
        backend.suspend(ref, identity.name, reason)
    return backend.info(ref)


def resume_key(ref: KekRef, *, actor: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """The doubt was cleared: the KEK is again what it was."""
    identity = ledger.catalogue.identity(actor)
    with ledger.act(actor=identity.name, action=RESUME_ACT, subject=f"key/{ref}", detail={}):
        backend.resume(ref, identity.name)
    return backend.info(ref)


def compromise_key(ref: KekRef, *, actor: str, reason: str, ledger: Ledger, backend: KeyBackend) -> KekInfo:
    """Somebody else may have the KEK: it never wraps again, and opens only for moving what survives."""
    identity = ledger.catalogue.identity(actor)
    runs: list[JsonValue] = list(live_runs(ledger.catalogue, ref))
    detail: dict[str, JsonValue] = {"reason": reason, "runs": runs}
    with ledger.act(actor=identity.name, action=COMPROMISE_ACT, subject=f"key/{ref}", detail=detail):
        backend.compromise(ref, identity.name, reason)
    return backend.info(ref)


def _require_idle(info: KekInfo, ledger: Ledger, may_live: MayLive) -> None:
    """Nothing may be sealing under the KEK: its next partition key would be refused in the middle."""
    catalogue = ledger.catalogue
    if info.purpose is Purpose.DATASET and not datasets_of(catalogue, info.ref):
        raise KeyInUse(
            f"KEK {info.ref} seals a dataset that is not recorded yet.",
            hint="Wait for its preparation to end; `stoker dataset gc` clears away one that did not.",
        )
    sealing = [run for run in catalogue.runs() if run.kek.partition("#")[0] == info.ref.scope]
    if live := [str(run.id) for run in sealing if may_live(run)]:
        raise KeyInUse(
            f"Run {live[0]} seals its checkpoints under KEK {info.ref}.",
            hint="Rotate it when the run has ended, or cancel the run and resume it afterwards.",
        )
