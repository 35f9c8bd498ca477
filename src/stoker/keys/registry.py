"""The key back end: one registry of states, times, identities and counts over a vault with the KEKs.

See docs/design/keys.md, "Registry and vaults".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from stoker.core.clock import Clock
from stoker.core.signing import Signer
from stoker.keys.backend import KekInfo
from stoker.keys.errors import KeyExpired, KeyUnknown
from stoker.keys.key_events import (
    Activate,
    ApplyTombstone,
    ApproveDestroy,
    Compromise,
    Deactivate,
    DestroyDue,
    DestroyNow,
    ExpireEarlier,
    KekEvent,
    RequestDestroy,
    Resume,
    Suspend,
    WithdrawDestroy,
)
from stoker.keys.keystore import KekEntry, Keystore, Told, Tombstone
from stoker.keys.open_keystore import OpenKeystore
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.registry_entries import entry_of, info_of, life_at
from stoker.keys.registry_signers import RegistrySigners
from stoker.keys.registry_wraps import RegistryWraps
from stoker.keys.secret import SecretKey
from stoker.keys.states import (
    DEFAULT_ORIGINATOR_S,
    MAY_MOVE,
    MAY_UNWRAP,
    MIN_WINDOW_S,
    KekLife,
    KekState,
    earlier,
)
from stoker.keys.transitions import Instruction, step
from stoker.keys.vault import KekVault

LATEST_EXPIRY_S: Final = 253_402_300_800.0  # the year 10000


class Registry:
    """A KeyBackend. Threads, processes and machines may share what lies under it."""

    def __init__(
        self, store: OpenKeystore[Any], vault: KekVault, clock: Clock, *, max_wraps: int | None = None
    ) -> None:
        """Takes over `store` and `vault`, and carries out what was decided and not done before.

        `max_wraps` is for tests: a lower limit than the vault's own.
        """
        self._store = store
        self._vault = vault
        self._clock = clock
        limit = vault.max_wraps if max_wraps is None else min(max_wraps, vault.max_wraps)
        self._wraps = RegistryWraps(store, vault, clock, limit)
        self._signers = RegistrySigners(store, clock)
        store.bring_up_to_date()
        if store.tombstones_differ():
            self.apply_tombstones(())
        for ref, entry in store.current().keks.items():
            if entry.told is not entry.wanted:
                self._settle(ref)

    def close(self) -> None:
        """See KeyBackend."""
        self._vault.close()
        self._store.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        store = getattr(self, "_store", None)
        if store is not None:
            store.close()

    def create_kek(
        self,
        scope: str,
        purpose: Purpose,
        *,
        expires_s: float | None,
        activates_s: float | None = None,
        wraps_until_s: float | None = None,
    ) -> KekRef:
        """See KeyBackend."""
        times = self._times(scope, expires_s, activates_s, wraps_until_s)
        return self._with_new_kek(lambda draft, made: self._add(draft, scope, purpose, times, made))

    def rotate(self, scope: str, *, expires_s: float | None) -> KekRef:
        """See KeyBackend."""
        times = self._times(scope, expires_s, None, None)

        def next_epoch(draft: Keystore, made: list[tuple[str, KekRef]]) -> KekRef:
            older = sorted(ref for ref in draft.keks if ref.scope == scope)
            if not older:
                raise KeyUnknown(
                    f"The key store holds no KEK of {KekRef(scope, 1).scope}.",
                    hint="`stoker key ls` shows those it holds.",
                )
            for ref in older:
                life = life_at(ref, draft.keks[ref], self._clock.now_s())
                if KekState.ACTIVE in (life.state, life.resumes_as) and life.withdraws_to is None:
                    self._step(draft, ref, Deactivate())
            return self._add(draft, scope, draft.keks[older[-1]].purpose, times, made)

        return self._with_new_kek(next_epoch)

    def _times(
        self, scope: str, expires_s: float | None, activates_s: float | None, wraps_until_s: float | None
    ) -> tuple[float, float, float | None]:
        """Activation, end of wrapping, end of unwrapping. Raises KeyExpired or BadKekRef."""
        now_s, first = self._clock.now_s(), KekRef(scope, 1)
        begins_s = now_s if activates_s is None else activates_s
        if wraps_until_s is None:
            ends_s = begins_s + DEFAULT_ORIGINATOR_S
            wraps_until_s = ends_s if expires_s is None else min(ends_s, expires_s)
        last_s = wraps_until_s if expires_s is None else expires_s
        if not now_s <= begins_s < wraps_until_s <= last_s < LATEST_EXPIRY_S:
            raise KeyExpired(
                f"A KEK of {first.scope} was to begin at {begins_s} s, wrap until {wraps_until_s} s and "
                f"expire at {expires_s} s, and it is {now_s} s now.",
                hint="Give times in the future and in this order, before the year 10000.",
            )
        return begins_s, wraps_until_s, expires_s

    def _with_new_kek(self, decide: Callable[[Keystore, list[tuple[str, KekRef]]], KekRef]) -> KekRef:
        """Change the registry by `decide`; KEKs made for a change that did not happen are destroyed again."""
        made: list[tuple[str, KekRef]] = []
        kept: str | None = None
        try:
            ref = self._store.change(lambda draft: decide(draft, made))
            kept = made[-1][0]
        finally:
            for handle, lost in made:
                if handle != kept:
                    self._vault.destroy(handle, lost)
        return ref

    def _add(
        self,
        draft: Keystore,
        scope: str,
        purpose: Purpose,
        times: tuple[float, float, float | None],
        made: list[tuple[str, KekRef]],
    ) -> KekRef:
        ref, now_s = KekRef(scope, draft.next_epoch(scope)), self._clock.now_s()
        begins_s, wraps_until_s, expires_s = times
        life = KekLife()
        if begins_s <= now_s:
            life, _ = step(ref, life, Activate())
        handle = self._vault.create(ref)
        made.append((handle, ref))
        draft.keks[ref] = KekEntry(
            purpose=purpose,
            life=life,
            created_s=now_s,
            activates_s=begins_s,
            wraps_until_s=wraps_until_s,
            expires_s=expires_s,
            deactivated_s=None,
            compromised_s=None,
            destroyed_s=None,
            wraps=0,
            handle=handle,
            told=Told.ENABLED,
        )
        return ref

    def info(self, ref: KekRef) -> KekInfo:
        """See KeyBackend."""
        return self._info(self._store.current(), ref)

    def list_keks(self) -> tuple[KekInfo, ...]:
        """See KeyBackend."""
        store = self._store.current()
        return tuple(self._info(store, ref) for ref in sorted(store.keks))

    def _info(self, store: Keystore, ref: KekRef) -> KekInfo:
        return info_of(ref, entry_of(store, ref), self._clock.now_s(), self._vault.name)

    def wrap(self, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KeyBackend."""
        return self._wraps.wrap(ref, key, context)

    def unwrap(self, ref: KekRef, wrapped: bytes, context: bytes, *, moving: bool = False) -> SecretKey:
        """See KeyBackend."""
        return self._wraps.unwrap(ref, wrapped, context, MAY_MOVE if moving else MAY_UNWRAP)

    def unwrap_many(
        self, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]], *, moving: bool = False
    ) -> list[SecretKey]:
        """See KeyBackend."""
        return self._wraps.unwrap_many(ref, wrapped, MAY_MOVE if moving else MAY_UNWRAP)

    def deactivate(self, ref: KekRef) -> None:
        """See KeyBackend."""
        self._take(ref, Deactivate())

    def suspend(self, ref: KekRef, by: str, reason: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, Suspend(by, reason))

    def resume(self, ref: KekRef, by: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, Resume(by))

    def compromise(self, ref: KekRef, by: str, reason: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, Compromise(by, reason))

    def expire_earlier(self, ref: KekRef, expires_s: float) -> KekInfo:
        """See KeyBackend."""
        if not 0.0 <= expires_s < LATEST_EXPIRY_S:
            raise KeyExpired(
                f"KEK {ref} was to expire at {expires_s} s, which is no time.",
                hint="Give a time between 1970 and the year 10000.",
            )

        def bring_forward(draft: Keystore) -> None:
            self._step(draft, ref, ExpireEarlier())
            entry = draft.keks[ref]
            draft.keks[ref] = replace(entry, expires_s=earlier(entry.expires_s, expires_s))

        self._store.change(bring_forward)
        return self.info(ref)

    def request_destroy(
        self, ref: KekRef, by: str, *, window_s: float = MIN_WINDOW_S, reason: str = ""
    ) -> None:
        """See KeyBackend."""
        self._take(ref, RequestDestroy(by, window_s, reason))

    def approve_destroy(self, ref: KekRef, by: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, ApproveDestroy(by, self._clock.now_s()))

    def withdraw_destroy(self, ref: KekRef, by: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, WithdrawDestroy(by, self._clock.now_s()))

    def destroy_due(self, ref: KekRef) -> KekInfo:
        """See KeyBackend."""
        entry = entry_of(self._store.current(), ref)
        if entry.life.state is KekState.DESTROYED and entry.told is not entry.wanted:
            self._settle(ref)
            return self.info(ref)
        return self._take(ref, DestroyDue(self._clock.now_s()))

    def destroy_now(self, ref: KekRef, by: str, *, reason: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, DestroyNow(by, reason))

    def destroy(self, ref: KekRef, approved_by: str) -> KekInfo:
        """See KeyBackend."""
        return self._take(ref, DestroyNow(approved_by, ""))

    def apply_tombstones(self, keks: Iterable[str]) -> tuple[str, ...]:
        """See KeyBackend. A KEK never held here gets a tombstone too: no name is used twice."""
        named = [KekRef.parse(text) for text in keks]

        def apply(draft: Keystore) -> list[KekRef]:
            for ref in named:
                draft.tombstones.setdefault(ref, Tombstone(None, None, self._clock.now_s()))
            alive = [
                ref
                for ref in sorted(draft.tombstones)
                if ref in draft.keks and draft.keks[ref].life.state is not KekState.DESTROYED
            ]
            for ref in alive:
                self._step(draft, ref, ApplyTombstone())
            return alive

        alive = self._store.change(apply, with_tombstones=True)
        for ref in alive:
            self._settle(ref)
        return tuple(str(ref) for ref in alive)

    def vault_has(self, ref: KekRef) -> bool:
        """See KeyBackend."""
        store = self._store.current()
        if ref not in store.keks and ref in store.tombstones:
            return False
        entry = entry_of(store, ref)
        return entry.handle is not None and self._vault.exists(entry.handle, ref)

    def vault_erases_at_s(self, ref: KekRef) -> float | None:
        """See KeyBackend."""
        store = self._store.current()
        if ref not in store.keks and ref in store.tombstones:
            return None
        entry = entry_of(store, ref)
        return None if entry.handle is None else self._vault.erased_at_s(entry.handle, ref)

    def signer(self, name: str) -> Signer:
        """See KeyBackend. Raises BadName."""
        return self._signers.signer(name)

    def canary(self, subject: str) -> str:
        """See KeyBackend."""
        return self._signers.canary(subject)

    def _take(self, ref: KekRef, event: KekEvent) -> KekInfo:
        """Take one step of the state table, for all to see, and then let the vault follow."""
        ends = isinstance(event, DestroyDue | DestroyNow)
        self._store.change(lambda draft: self._step(draft, ref, event), with_tombstones=ends)
        self._settle(ref)
        return self.info(ref)

    def _step(self, draft: Keystore, ref: KekRef, event: KekEvent) -> None:
        entry, now_s = entry_of(draft, ref), self._clock.now_s()
        life, instructions = step(ref, life_at(ref, entry, now_s), event)
        entry = replace(
            entry,
            life=life,
            deactivated_s=now_s if isinstance(event, Deactivate) else entry.deactivated_s,
            compromised_s=now_s if isinstance(event, Compromise) else entry.compromised_s,
        )
        if Instruction.LEAVE_TOMBSTONE in instructions:
            draft.tombstones.setdefault(ref, Tombstone(life.requested_by, life.approved_by, now_s))
        if self._vault.embedded:  # this very write is all there is to do
            entry = replace(entry, told=entry.wanted)
            if Instruction.ERASE_KEY in instructions:
                entry = replace(entry, handle=None, destroyed_s=draft.tombstones[ref].destroyed_s)
        draft.keks[ref] = entry

    def _settle(self, ref: KekRef) -> None:
        """Let the vault follow the registry, and record that it did; a crash in between is made good."""
        entry = entry_of(self._store.current(), ref)
        while entry.told is not entry.wanted and entry.handle is not None:
            wanted = entry.wanted
            match wanted:
                case Told.DISABLED:
                    self._vault.disable(entry.handle, ref)
                case Told.ENABLED:
                    self._vault.enable(entry.handle, ref)
                case Told.DESTROYED:
                    self._vault.destroy(entry.handle, ref)
            now_s = self._clock.now_s()

            def record(draft: Keystore, told: Told = wanted, now_s: float = now_s) -> KekEntry:
                entry = replace(entry_of(draft, ref), told=told)
                if told is Told.DESTROYED:
                    entry = replace(entry, destroyed_s=now_s)
                draft.keks[ref] = entry
                return entry

            entry = self._store.change(record)
