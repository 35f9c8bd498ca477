"""Moving what survives a KEK to the next epoch of its scope: each partition key is wrapped once more.

A sealed header binds its wrapped key, so headers are not rewritten: new wraps lie beside the streams, by the
digest of the old one, and whoever opens a stream finds them there. No payload is read or written. See
docs/design/keys.md, "Rewrap", for what that is worth and what it is not.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, cast

from stoker.core.canonical import JsonValue
from stoker.core.errors import StokerError
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import (
    BadKekRef,
    KeyDestroyed,
    KeyExpired,
    KeyNotActive,
    KeyUnknown,
    RewrapRefused,
    WrongContext,
)
from stoker.keys.moves import REWRAP_ACT
from stoker.keys.partition import partition_context
from stoker.keys.refs import MAX_REF_BYTES, KekRef, Purpose
from stoker.keys.rotation import newest_epoch
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekState
from stoker.ledger.ledger import Ledger

BEGIN_ACT: Final = "key.rewrap.begin"
MAX_MOVED_KEYS: Final = 1 << 20
MAX_WRAPPED_BYTES: Final = 1024
MAX_MOVE_BYTES: Final = 64 + 2 * MAX_REF_BYTES + MAX_MOVED_KEYS * (34 + MAX_WRAPPED_BYTES)

_MAGIC: Final = b"STKX"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sB3xIBB")
_ENTRY: Final = struct.Struct(">32sH")
_CLOSED: Final = (KeyDestroyed, KeyNotActive, KeyExpired, KeyUnknown, WrongContext)
_BATCH: Final = 1024
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A partition key as stored headers hold it, and how many streams it opens; `example` names one."""

    kek: KekRef
    wrapped: bytes
    purpose: Purpose
    streams: int
    example: str


@dataclass(frozen=True, slots=True)
class Move:
    """The new wraps of keys that `source` had wrapped, under `target`, by SHA-256 of the old wrap."""

    source: KekRef
    target: KekRef
    wrapped: dict[bytes, bytes]


class Moves(Protocol):
    """Where new wraps lie: beside what they open. `stoker.store.rewraps` implements it."""

    def find(self, kek: KekRef, digest: bytes) -> Iterator[tuple[KekRef, bytes]]:
        """Every new wrap of the key whose old wrap under `kek` has this digest, the newest epoch first."""
        ...


class SealedThings(Protocol):
    """The stored streams that a scope's KEKs sealed, and the place beside them for new wraps."""

    def wrapped_keys(self, scope: str) -> Iterator[WrappedKey]:
        """Each partition key once, as the headers of the streams that exist now hold it."""
        ...

    def keep(self, move: Move) -> str:
        """Store the move for good; says under which name."""
        ...


@dataclass(frozen=True, slots=True)
class RewrapReport:
    """What was moved. `left` names up to five streams whose key did not open, and so stays behind."""

    kind: ClassVar[str] = "key-rewrap"
    version: ClassVar[int] = 1

    kek: str
    to: str
    partition_keys: int
    streams: int
    objects: tuple[str, ...]
    left: tuple[str, ...]
    left_keys: int
    dry_run: bool = False


class RewrappedBackend:
    """A KeyBackend that also opens keys whose KEK has handed them on; everything else is the back end's.

    Only a KEK that is destroyed or may not be used sends it looking: opening costs nothing more before that.
    An expired KEK does not, so a move never outlives the end that was set for the data.
    """

    def __init__(self, backend: KeyBackend, moves: Moves) -> None:
        self.raw = backend
        self._moves = moves

    def unwrap(self, ref: KekRef, wrapped: bytes, context: bytes, **how: Any) -> SecretKey:
        """See KeyBackend. Raises what the newest KEK that has the key raises."""
        try:
            return self.raw.unwrap(ref, wrapped, context, **how)
        except (KeyDestroyed, KeyNotActive):
            moved = self._moved(ref, wrapped, context, how)
            if moved is None:
                raise
        return moved

    def unwrap_many(self, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]], **how: Any) -> list[SecretKey]:
        """See KeyBackend: all of them, or none."""
        try:
            return self.raw.unwrap_many(ref, wrapped, **how)
        except (KeyDestroyed, KeyNotActive):
            opened: list[SecretKey] = []
            try:
                for each, context in wrapped:
                    moved = self._moved(ref, each, context, how)
                    if moved is None:
                        raise
                    opened.append(moved)
            except BaseException:
                for key in opened:
                    key.wipe()
                raise
            return opened

    def _moved(self, ref: KekRef, wrapped: bytes, context: bytes, how: dict[str, Any]) -> SecretKey | None:
        """The key from where it was moved to; None when it never was."""
        if not 0 < len(wrapped) <= MAX_WRAPPED_BYTES:
            return None
        refusal: StokerError | None = None
        for target, again in self._moves.find(ref, hashlib.sha256(wrapped).digest()):
            try:
                return self.raw.unwrap(target, again, moved_context(wrapped, context), **how)
            except _CLOSED as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def with_moves(backend: KeyBackend, moves: Moves) -> KeyBackend:
    """`backend`, also opening what was moved."""
    return cast(KeyBackend, RewrappedBackend(backend, moves))


def without_moves(backend: KeyBackend) -> KeyBackend:
    """The back end itself: what a proof of death must ask."""
    return backend.raw if isinstance(backend, RewrappedBackend) else backend


def moved_context(wrapped: bytes, context: bytes) -> bytes:
    """What binds a new wrap to the old one, and so to its scope, epoch and purpose."""
    return _MAGIC + bytes([_VERSION]) + hashlib.sha256(wrapped).digest() + context


def rewrap_survivors(
    ref: KekRef,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    things: SealedThings,
    dry_run: bool = False,
) -> RewrapReport:
    """Wrap every partition key that stored streams hold under `ref` once more, under the scope's newest KEK.

    Those of earlier epochs come along, since `ref` may be what keeps them. Each new wrap is opened and
    compared before anything is recorded. Streams whose key does not open are left and named; while there are
    any, the KEK counts as not moved. Nothing is taken from `ref`: destroying it is what makes the move worth
    something. Raises RewrapRefused when there is no active later epoch.
    """
    identity = ledger.catalogue.identity(actor)
    to = newest_epoch(backend, ref.scope)
    if to is None or to.epoch <= ref.epoch or backend.info(to).state is not KekState.ACTIVE:
        raise RewrapRefused(
            f"KEK {ref} has no active later epoch to move its keys to.",
            hint=f"Make one with: stoker key rotate {ref.scope}",
        )
    held: dict[KekRef, list[WrappedKey]] = {ref: []}
    for each in things.wrapped_keys(ref.scope):
        if each.kek.epoch <= ref.epoch:
            held.setdefault(each.kek, []).append(each)
    keys = sum(len(some) for some in held.values())
    streams = sum(each.streams for some in held.values() for each in some)
    if dry_run:
        return RewrapReport(str(ref), str(to), keys, streams, (), (), 0, dry_run=True)
    begin: dict[str, JsonValue] = {"to": str(to), "partition_keys": keys, "streams": streams}
    with ledger.act(actor=identity.name, action=BEGIN_ACT, subject=f"key/{ref}", detail=begin):
        pass
    names: list[str] = []
    left: list[WrappedKey] = []
    for source in sorted(held):
        move, behind = _moved_keys(source, to, held[source], backend)
        name = things.keep(move) if move.wrapped else None
        detail: dict[str, JsonValue] = {
            "to": str(to),
            "partition_keys": len(move.wrapped),
            "object": name,
            "left": len(behind),
            "left_streams": [each.example for each in behind[:_SHOWN]],
        }
        with ledger.act(actor=identity.name, action=REWRAP_ACT, subject=f"key/{source}", detail=detail):
            pass
        names += [] if name is None else [name]
        left += behind
    return RewrapReport(
        str(ref),
        str(to),
        keys - len(left),
        streams - sum(each.streams for each in left),
        tuple(names),
        tuple(each.example for each in left[:_SHOWN]),
        len(left),
    )


def _moved_keys(
    source: KekRef, to: KekRef, held: Sequence[WrappedKey], backend: KeyBackend
) -> tuple[Move, list[WrappedKey]]:
    """The keys under `source` wrapped once more, and those that did not open."""
    move, left = Move(source, to, {}), list[WrappedKey]()
    for first in range(0, len(held), _BATCH):
        _move(source, to, held[first : first + _BATCH], backend, move.wrapped, left)
    return move, left


def _move(
    ref: KekRef,
    to: KekRef,
    held: Sequence[WrappedKey],
    backend: KeyBackend,
    wrapped: dict[bytes, bytes],
    left: list[WrappedKey],
) -> None:
    for each, key in zip(held, _opened(ref, held, backend), strict=True):
        if key is None:
            left.append(each)
            continue
        with key:
            context = moved_context(each.wrapped, partition_context(ref, each.purpose))
            again = backend.wrap(to, key, context)
            with backend.unwrap(to, again, context) as check:
                if not hmac.compare_digest(check.view(), key.view()):
                    raise RewrapRefused(
                        f"A key that was moved from {ref} to {to} is another key when it is opened again.",
                        hint="The key back end is faulty: nothing was recorded. Keep the old KEK.",
                    )
            wrapped[hashlib.sha256(each.wrapped).digest()] = again


def _opened(ref: KekRef, held: Sequence[WrappedKey], backend: KeyBackend) -> list[SecretKey | None]:
    """Every key of the batch, None for one that does not open; in one round trip when all do."""
    pairs = [(each.wrapped, partition_context(ref, each.purpose)) for each in held]
    try:
        return list(backend.unwrap_many(ref, pairs, moving=True))
    except WrongContext:
        found: list[SecretKey | None] = []
        for pair in pairs:
            try:
                found += backend.unwrap_many(ref, [pair], moving=True)
            except WrongContext:
                found.append(None)
        return found


def encode_move(move: Move) -> bytes:
    """The bytes of a move, by digest. Raises RewrapRefused for more than a million keys."""
    if len(move.wrapped) > MAX_MOVED_KEYS:
        raise RewrapRefused(
            f"{len(move.wrapped)} keys are more than one move takes.",
            hint=f"At most {MAX_MOVED_KEYS} partition keys (over four billion shards) are moved at once.",
        )
    source, target = str(move.source).encode("ascii"), str(move.target).encode("ascii")
    parts = [_HEAD.pack(_MAGIC, _VERSION, len(move.wrapped), len(source), len(target)), source, target]
    for digest in sorted(move.wrapped):
        parts += [_ENTRY.pack(digest, len(move.wrapped[digest])), move.wrapped[digest]]
    return b"".join(parts)


def decode_move(data: bytes, place: str) -> Move:
    """The move in `data`. Raises RewrapRefused, naming `place`, for what `encode_move` does not write.

    It needs no MAC: a wrap that was changed or exchanged does not open.
    """
    try:
        magic, version, count, source_bytes, target_bytes = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION or count > MAX_MOVED_KEYS:
            raise ValueError("its head is of another form")
        at = _HEAD.size
        source = KekRef.parse(data[at : at + source_bytes].decode("ascii"))
        at += source_bytes
        target = KekRef.parse(data[at : at + target_bytes].decode("ascii"))
        at += target_bytes
        if source.scope != target.scope or target.epoch <= source.epoch:
            raise ValueError("it does not lead to a later epoch of its scope")
        wrapped: dict[bytes, bytes] = {}
        for _ in range(count):
            digest, length = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            if not 0 < length <= MAX_WRAPPED_BYTES or at + length > len(data):
                raise ValueError("a wrapped key does not fit")
            wrapped[digest] = data[at : at + length]
            at += length
        if at != len(data) or len(wrapped) != count or list(wrapped) != sorted(wrapped):
            raise ValueError("it is longer than it says, or its keys are out of order")
    except (struct.error, ValueError, BadKekRef) as error:
        raise RewrapRefused(
            f"{place} is no record of moved keys: {error}.",
            hint="It was changed or damaged. Restore it from a copy.",
        ) from error
    return Move(source, target, wrapped)
