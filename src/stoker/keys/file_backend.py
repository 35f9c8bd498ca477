"""The file back end: all of key management in one folder, for one machine. See docs/design/keys.md."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stoker.core.clock import Clock
from stoker.core.errors import BadName
from stoker.core.signing import Ed25519Signer, Signer
from stoker.keys.backend import KekInfo
from stoker.keys.errors import KeyExpired, KeystoreDamaged, KeyUnknown, KeyUsageExceeded
from stoker.keys.keystore import KekEntry, Keystore, SignerEntry, Tombstone, secret_context
from stoker.keys.open_keystore import OpenKeystore, open_keystore
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.root import ScryptCost
from stoker.keys.secret import SecretKey
from stoker.keys.states import (
    MAY_UNWRAP,
    MAY_WRAP,
    Activate,
    ApplyTombstone,
    ApproveDestroy,
    Deactivate,
    ExpireEarlier,
    Instruction,
    KekEvent,
    KekLife,
    KekState,
    RequestDestroy,
    earlier,
    refusal,
    step,
)
from stoker.keys.wrap import check_wrapped, unwrap_key, wrap_key

MAX_WRAPS: Final = 2**32
RESERVED_WRAPS: Final = 256
LATEST_EXPIRY_S: Final = 253_402_300_800.0  # the year 10000

_SEGMENT = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_SIGNER_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,2}}")


class FileBackend:
    """A KeyBackend whose KEKs lie wrapped in `keystore.json`. Threads and processes may share a folder."""

    def __init__(self, store: OpenKeystore, clock: Clock, *, max_wraps: int = MAX_WRAPS) -> None:
        """Use `open`."""
        self._store = store
        self._clock = clock
        self._max_wraps = max_wraps
        self._reserved: dict[KekRef, int] = {}
        self._guard = threading.Lock()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        clock: Clock,
        passphrase: Callable[[], str] | None = None,
        cost: ScryptCost | None = None,
        max_wraps: int = MAX_WRAPS,
    ) -> FileBackend:
        """Open the key store in `folder`, or make one; destroyed KEKs that came back are destroyed again.

        `passphrase` is asked once, and only where one is needed. `cost` and `max_wraps` are for tests. Raises
        what `open_keystore` raises.
        """
        store = open_keystore(folder, passphrase, cost or ScryptCost())
        backend = cls(store, clock, max_wraps=max_wraps)
        if store.tombstones_differ():
            backend.apply_tombstones(())
        return backend

    def close(self) -> None:
        """Wipe the derived keys; the back end cannot be used afterwards."""
        self._store.close()

    def __enter__(self) -> FileBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        store = getattr(self, "_store", None)
        if store is not None:
            store.close()

    def create_kek(self, scope: str, purpose: Purpose, *, expires_s: float | None) -> KekRef:
        """See KeyBackend. Raises KeyExpired when `expires_s` is not in the future."""
        now_s = self._clock.now_s()
        first = KekRef(scope, 1)
        if expires_s is not None and not now_s < expires_s < LATEST_EXPIRY_S:
            raise KeyExpired(
                f"A KEK of {first.scope} was to expire at {expires_s} s, and it is {now_s} s now.",
                hint="Give an expiry in the future, before the year 10000.",
            )

        def add(draft: Keystore) -> KekRef:
            ref = KekRef(scope, draft.next_epoch(scope))
            life, _ = step(ref, KekLife(), Activate())
            with SecretKey.generate() as kek:
                wrapped = wrap_key(self._store.keys.kek_wrap, kek, _kek_context(draft, ref, purpose))
            draft.keks[ref] = KekEntry(
                purpose=purpose,
                state=life.state,
                created_s=now_s,
                expires_s=expires_s,
                deactivated_s=None,
                requested_by=None,
                approved_by=None,
                destroyed_s=None,
                wraps=0,
                wrapped=wrapped,
            )
            return ref

        return self._store.change(add)

    def info(self, ref: KekRef) -> KekInfo:
        """See KeyBackend."""
        return _info(ref, _entry(self._store.current(), ref))

    def list_keks(self) -> tuple[KekInfo, ...]:
        """See KeyBackend."""
        return tuple(_info(ref, entry) for ref, entry in sorted(self._store.current().keks.items()))

    def wrap(self, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KeyBackend."""
        store = self._store.current()
        entry = self._usable(store, ref, MAY_WRAP, "wraps nothing")
        with self._guard:
            if self._reserved.get(ref, 0) == 0:
                self._reserved[ref] = self._store.change(lambda draft: self._reserve(draft, ref))
            self._reserved[ref] -= 1
        with self._kek(store, ref, entry) as kek:
            return wrap_key(kek, key, context)

    def _reserve(self, draft: Keystore, ref: KekRef) -> int:
        entry = self._usable(draft, ref, MAY_WRAP, "wraps nothing")
        granted = min(RESERVED_WRAPS, self._max_wraps - entry.wraps)
        if granted <= 0:
            raise KeyUsageExceeded(
                f"KEK {ref} has wrapped {entry.wraps} keys, as many as it may.",
                hint="Create the next epoch of its scope and use that.",
            )
        draft.keks[ref] = replace(entry, wraps=entry.wraps + granted)
        return granted

    def unwrap(self, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """See KeyBackend."""
        store = self._store.current()
        entry = self._usable(store, ref, MAY_UNWRAP, "unwraps nothing")
        place = f"KEK {ref}"
        check_wrapped(wrapped, place)
        with self._kek(store, ref, entry) as kek:
            return unwrap_key(kek, wrapped, context, place)

    def _usable(self, store: Keystore, ref: KekRef, states: frozenset[KekState], refused: str) -> KekEntry:
        entry = _entry(store, ref)
        if ref in store.tombstones:
            raise refusal(ref, KekState.DESTROYED, refused)
        if entry.state not in states:
            raise refusal(ref, entry.state, refused)
        if entry.expires_s is not None and self._clock.now_s() >= entry.expires_s:
            raise KeyExpired(
                f"KEK {ref} has expired.",
                hint="What it sealed is no longer to be read; import or prepare the data anew.",
            )
        return entry

    def _kek(self, store: Keystore, ref: KekRef, entry: KekEntry) -> SecretKey:
        assert entry.wrapped is not None, "only a destroyed KEK has no bytes"
        context = _kek_context(store, ref, entry.purpose)
        return unwrap_key(self._store.keys.kek_wrap, entry.wrapped, context, f"key store entry kek/{ref}")

    def deactivate(self, ref: KekRef) -> None:
        """See KeyBackend."""
        self._store.change(lambda draft: self._step(draft, ref, Deactivate()))

    def expire_earlier(self, ref: KekRef, expires_s: float) -> KekInfo:
        """See KeyBackend."""
        if not 0.0 <= expires_s < LATEST_EXPIRY_S:
            raise KeyExpired(
                f"KEK {ref} was to expire at {expires_s} s, which is no time.",
                hint="Give a time between 1970 and the year 10000.",
            )

        def bring_forward(draft: Keystore) -> KekInfo:
            self._step(draft, ref, ExpireEarlier())
            entry = draft.keks[ref]
            draft.keks[ref] = replace(entry, expires_s=earlier(entry.expires_s, expires_s))
            return _info(ref, draft.keks[ref])

        return self._store.change(bring_forward)

    def request_destroy(self, ref: KekRef, by: str) -> None:
        """See KeyBackend."""
        self._store.change(lambda draft: self._step(draft, ref, RequestDestroy(by)))

    def destroy(self, ref: KekRef, approved_by: str) -> KekInfo:
        """See KeyBackend."""
        return self._store.change(
            lambda draft: self._step(draft, ref, ApproveDestroy(approved_by)), with_tombstones=True
        )

    def apply_tombstones(self, keks: Iterable[str]) -> tuple[str, ...]:
        """See KeyBackend. A KEK never held here gets a tombstone too: no name is used twice."""
        named = [KekRef.parse(text) for text in keks]

        def apply(draft: Keystore) -> tuple[str, ...]:
            for ref in named:
                draft.tombstones.setdefault(ref, Tombstone(None, None, self._clock.now_s()))
            alive = [
                ref
                for ref in sorted(draft.tombstones)
                if ref in draft.keks and draft.keks[ref].state is not KekState.DESTROYED
            ]
            for ref in alive:
                self._step(draft, ref, ApplyTombstone())
            return tuple(str(ref) for ref in alive)

        return self._store.change(apply, with_tombstones=True)

    def _step(self, draft: Keystore, ref: KekRef, event: KekEvent) -> KekInfo:
        """Take one step of the state table in `draft` and carry out its instructions there."""
        entry, now_s = _entry(draft, ref), self._clock.now_s()
        life, instructions = step(ref, entry.life, event)
        changed = replace(
            entry,
            state=life.state,
            requested_by=life.requested_by,
            approved_by=life.approved_by,
            deactivated_s=now_s if isinstance(event, Deactivate) else entry.deactivated_s,
        )
        for instruction in instructions:
            match instruction:
                case Instruction.LEAVE_TOMBSTONE:
                    stone = Tombstone(life.requested_by, life.approved_by, now_s)
                    draft.tombstones.setdefault(ref, stone)
                case Instruction.ERASE_KEY:
                    changed = replace(changed, wrapped=None, destroyed_s=draft.tombstones[ref].destroyed_s)
        draft.keks[ref] = changed
        return _info(ref, changed)

    def signer(self, name: str) -> Signer:
        """See KeyBackend. Raises BadName."""
        if _SIGNER_NAME.fullmatch(name) is None or ".." in name:
            raise BadName(
                f"{name[:200]!a} is not a signer's name.",
                hint="A signer is named like 'manifest' or 'identity/alice'.",
            )
        store = self._store.current()
        entry = store.signers.get(name) or self._store.change(lambda draft: self._add_signer(draft, name))
        context = _signer_context(store, name, entry.public_key)
        wrapping = self._store.keys.signer_wrap
        with unwrap_key(wrapping, entry.wrapped, context, f"key store entry signer/{name}") as seed:
            signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(seed.view()))
        if signer.public_key != entry.public_key:
            raise KeystoreDamaged(f"The seed of signer {name} does not fit its public key.")
        return signer

    def _add_signer(self, draft: Keystore, name: str) -> SignerEntry:
        found = draft.signers.get(name)
        if found is not None:
            return found
        with SecretKey.generate() as seed:
            public_key = Ed25519PrivateKey.from_private_bytes(seed.view()).public_key().public_bytes_raw()
            context = _signer_context(draft, name, public_key)
            wrapped = wrap_key(self._store.keys.signer_wrap, seed, context)
        draft.signers[name] = SignerEntry(self._clock.now_s(), public_key, wrapped)
        return draft.signers[name]

    def canary(self, subject: str) -> str:
        """See KeyBackend. HKDF-SHA256 of the canary key, info `stoker/canary/v1/` and the subject."""
        info = b"stoker/canary/v1/" + subject.encode()
        hkdf = HKDF(algorithm=hashes.SHA256(), length=16, salt=self._store.current().head.store_id, info=info)
        return "stoker-canary-" + hkdf.derive(self._store.keys.canary.view()).hex()


def _entry(store: Keystore, ref: KekRef) -> KekEntry:
    entry = store.keks.get(ref)
    if entry is None:
        if ref in store.tombstones:
            raise refusal(ref, KekState.DESTROYED, "")
        raise KeyUnknown(
            f"The key store holds no KEK {ref}.",
            hint="`stoker key list` shows those it holds; was the key store restored from an old backup?",
        )
    return entry


def _info(ref: KekRef, entry: KekEntry) -> KekInfo:
    return KekInfo(
        ref=ref,
        purpose=entry.purpose,
        state=entry.state,
        created_s=entry.created_s,
        expires_s=entry.expires_s,
        deactivated_s=entry.deactivated_s,
        destroy_requested_by=entry.requested_by,
        destroy_approved_by=entry.approved_by,
        destroyed_s=entry.destroyed_s,
        wraps=entry.wraps,
    )


def _kek_context(store: Keystore, ref: KekRef, purpose: Purpose) -> bytes:
    return secret_context(store.head.store_id, f"kek/{ref}", purpose)


def _signer_context(store: Keystore, name: str, public_key: bytes) -> bytes:
    return secret_context(store.head.store_id, f"signer/{name}", public_key.hex())
