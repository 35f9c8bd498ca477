"""What `keystore.json` and `tombstones.json` hold, and how they are authenticated: bytes to records and back.

No files are touched here. See docs/design/keys.md, "keystore.json".
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cattrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from stoker.core.canonical import JsonValue, canonical_json, digest_of
from stoker.keys.errors import BadKekRef, KeystoreDamaged, KeystoreVersion
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.root import CHECK_BYTES, SALT_BYTES, RootKeys, ScryptCost
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekLife, KekState

VERSION: Final = 1
MAX_FILE_BYTES: Final = 64 * 2**20
STORE_ID_BYTES: Final = 16

_MAGIC: Final = "stoker-keystore"
_TOMBSTONES_MAGIC: Final = "stoker-tombstones"
_MEMBERS: Final = {"magic", "version", "id", "root", "root_check", "generation", "entries", "index", "mac"}
_RESTORE: Final = "It was changed outside Stoker. Restore it from a copy you trust."


@dataclass(frozen=True, slots=True)
class Head:
    """What is in the open before the root is known. `scrypt` and `salt` are None for a key file."""

    store_id: bytes
    root_check: bytes
    scrypt: ScryptCost | None
    salt: bytes | None


@dataclass(frozen=True, slots=True)
class KekEntry:
    """One KEK. `wrapped` is None once it is destroyed."""

    purpose: Purpose
    state: KekState
    created_s: float
    expires_s: float | None
    deactivated_s: float | None
    requested_by: str | None
    approved_by: str | None
    destroyed_s: float | None
    wraps: int
    wrapped: bytes | None

    @property
    def life(self) -> KekLife:
        """Its place in the state table."""
        return KekLife(self.state, self.requested_by, self.approved_by)


@dataclass(frozen=True, slots=True)
class SignerEntry:
    """One Ed25519 signer; `wrapped` holds its seed."""

    created_s: float
    public_key: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A KEK that is gone for good. The names are None when only the ledger knows them."""

    requested_by: str | None
    approved_by: str | None
    destroyed_s: float


@dataclass(slots=True)
class Keystore:
    """The whole content of one version of a key store; a draft is a copy that becomes the next version."""

    head: Head
    generation: int = 0
    keks: dict[KekRef, KekEntry] = field(default_factory=dict)
    signers: dict[str, SignerEntry] = field(default_factory=dict)
    tombstones: dict[KekRef, Tombstone] = field(default_factory=dict)

    def draft(self) -> Keystore:
        """A copy with the next generation; entries are immutable and shared."""
        return Keystore(
            self.head, self.generation + 1, dict(self.keks), dict(self.signers), dict(self.tombstones)
        )

    def next_epoch(self, scope: str) -> int:
        """One more than any epoch of `scope` that ever was, destroyed ones included."""
        return 1 + max((ref.epoch for ref in (*self.keks, *self.tombstones) if ref.scope == scope), default=0)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(bytes, lambda value, _: bytes.fromhex(value))
    converter.register_unstructure_hook(bytes, lambda value: value.hex())
    return converter


_CONVERTER: Final = _converter()


def secret_context(store_id: bytes, entry: str, bound: str) -> bytes:
    """The wrap context of the secret in `entry`; `bound` is a KEK's purpose or a signer's public key."""
    return b"stoker/keystore/v1\0" + canonical_json([store_id.hex(), entry, bound])


def encode_keystore(store: Keystore, keys: RootKeys) -> bytes:
    """The bytes of `keystore.json`."""
    entries: dict[str, JsonValue] = {}
    for ref, kek in store.keks.items():
        entries[f"kek/{ref}"] = _CONVERTER.unstructure(kek)
    for name, signer in store.signers.items():
        entries[f"signer/{name}"] = _CONVERTER.unstructure(signer)
    for ref, tombstone in store.tombstones.items():
        entries[f"tombstone/{ref}"] = _CONVERTER.unstructure(tombstone)
    head = store.head
    root: dict[str, JsonValue] = {"kind": "key-file"}
    if head.scrypt is not None and head.salt is not None:
        cost = head.scrypt
        root = {"kind": "scrypt", "log2_n": cost.log2_n, "r": cost.r, "p": cost.p, "salt": head.salt.hex()}
    body: dict[str, JsonValue] = {
        "magic": _MAGIC,
        "version": VERSION,
        "id": head.store_id.hex(),
        "root": root,
        "root_check": head.root_check.hex(),
        "generation": store.generation,
        "index": {name: digest_of([name, entry]) for name, entry in entries.items()},
    }
    mac = _mac(keys.keystore_mac, b"stoker/keystore/v1\0", body)
    return canonical_json({**body, "entries": entries, "mac": mac}) + b"\n"


def decode_head(data: bytes, place: Path) -> Head:
    """What is needed to derive the root, not yet authenticated. Raises KeystoreDamaged or KeystoreVersion."""
    body = _parse(data, _MAGIC, _MEMBERS, place)
    root = body["root"]
    scrypt, salt = None, None
    if isinstance(root, dict) and root.get("kind") == "scrypt":
        _require(set(root) == {"kind", "log2_n", "r", "p", "salt"}, place, "its root has other members")
        cost = [root[name] for name in ("log2_n", "r", "p")]
        _require(all(type(number) is int for number in cost), place, "its scrypt cost is not three integers")
        scrypt, salt = ScryptCost(*cost), _hex(root["salt"], SALT_BYTES, place, "salt")
    else:
        _require(root == {"kind": "key-file"}, place, "its root is neither a key file nor scrypt")
    return Head(
        store_id=_hex(body["id"], STORE_ID_BYTES, place, "id"),
        root_check=_hex(body["root_check"], CHECK_BYTES, place, "root_check"),
        scrypt=scrypt,
        salt=salt,
    )


def decode_keystore(data: bytes, keys: RootKeys, place: Path) -> Keystore:
    """The content of `keystore.json`, authenticated as a whole before anything in it is believed.

    Raises KeystoreDamaged, which names the entry that was changed, exchanged, rolled back, added or cut.
    """
    head = decode_head(data, place)
    body = _parse(data, _MAGIC, _MEMBERS, place)
    entries, index, mac = body.pop("entries"), body["index"], body.pop("mac")
    expected = _mac(keys.keystore_mac, b"stoker/keystore/v1\0", body)
    genuine = isinstance(mac, str) and hmac.compare_digest(mac.encode(), expected.encode())
    _require(genuine, place, "its head or index was changed: the authentication code does not fit")
    _require(isinstance(entries, dict), place, "it holds no entries")
    for name in sorted({*index, *entries}):
        _require(name in entries, place, f"entry {name!a} was cut")
        _require(name in index, place, f"entry {name!a} was added")
        same = digest_of([name, entries[name]]) == index[name]
        _require(same, place, f"entry {name!a} was changed, exchanged or rolled back")
    store = Keystore(head, generation=body["generation"])
    for name, entry in entries.items():
        _take_entry(store, name, entry, place)
    return store


def _take_entry(store: Keystore, name: str, entry: Any, place: Path) -> None:
    kind, _, rest = name.partition("/")
    try:
        match kind:
            case "kek":
                store.keks[KekRef.parse(rest)] = _CONVERTER.structure(entry, KekEntry)
            case "tombstone":
                store.tombstones[KekRef.parse(rest)] = _CONVERTER.structure(entry, Tombstone)
            case "signer":
                store.signers[rest] = _CONVERTER.structure(entry, SignerEntry)
            case _:
                _require(False, place, f"entry {name!a} is of no known kind")
    except (cattrs.BaseValidationError, BadKekRef) as error:
        raise _damaged(place, f"entry {name!a} cannot be understood") from error


def encode_tombstones(store: Keystore, keys: RootKeys) -> bytes:
    """The bytes of `tombstones.json`."""
    tombstones = {str(ref): _CONVERTER.unstructure(stone) for ref, stone in store.tombstones.items()}
    body: dict[str, JsonValue] = {
        "magic": _TOMBSTONES_MAGIC,
        "version": VERSION,
        "id": store.head.store_id.hex(),
        "tombstones": tombstones,
    }
    mac = _mac(keys.tombstone_mac, b"stoker/tombstones/v1\0", body)
    return canonical_json({**body, "mac": mac}) + b"\n"


def decode_tombstones(data: bytes, keys: RootKeys, place: Path) -> dict[KekRef, Tombstone]:
    """The content of `tombstones.json`. Raises KeystoreDamaged or KeystoreVersion."""
    body = _parse(data, _TOMBSTONES_MAGIC, {"magic", "version", "id", "tombstones", "mac"}, place)
    mac = body.pop("mac")
    expected = _mac(keys.tombstone_mac, b"stoker/tombstones/v1\0", body)
    genuine = isinstance(mac, str) and hmac.compare_digest(mac.encode(), expected.encode())
    _require(genuine, place, "it was changed or belongs to another key store")
    try:
        return {
            KekRef.parse(name): _CONVERTER.structure(stone, Tombstone)
            for name, stone in body["tombstones"].items()
        }
    except (cattrs.BaseValidationError, BadKekRef) as error:
        raise _damaged(place, "a tombstone cannot be understood") from error


def _parse(data: bytes, magic: str, members: set[str], place: Path) -> dict[str, Any]:
    try:
        body: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(place, "it is cut or garbled: not JSON") from error
    if not isinstance(body, dict) or body.get("magic") != magic:
        raise _damaged(place, f"it does not say that it is a {magic}")
    if body.get("version") != VERSION or type(body["version"]) is not int:
        raise KeystoreVersion(
            f"{place} has format version {str(body.get('version'))[:40]!a}; this Stoker knows {VERSION}.",
            hint="Use the Stoker that wrote it.",
        )
    _require(set(body) == members, place, "it has other members than its format")
    try:
        same = canonical_json(body) + b"\n" == data
    except (ValueError, RecursionError) as error:
        raise _damaged(place, "it holds values that the format does not know") from error
    _require(same, place, "its bytes are not in canonical form")
    generation = body.get("generation", 1)
    _require(type(generation) is int and 1 <= generation < 2**53, place, "its generation is no count")
    _require(isinstance(body.get("index", {}), dict), place, "its index is no object")
    return body


def _mac(key: SecretKey, label: bytes, body: Mapping[str, JsonValue]) -> str:
    mac = HMAC(key.view(), hashes.SHA256())
    mac.update(label + canonical_json(body))
    return mac.finalize().hex()


def _hex(value: object, length: int, place: Path, what: str) -> bytes:
    if not isinstance(value, str) or re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value) is None:
        raise _damaged(place, f"its {what} is not {length} bytes in hexadecimal")
    return bytes.fromhex(value)


def _require(holds: bool, place: Path, otherwise: str) -> None:
    if not holds:
        raise _damaged(place, otherwise)


def _damaged(place: Path, why: str) -> KeystoreDamaged:
    return KeystoreDamaged(f"{place} cannot be trusted: {why}.", hint=_RESTORE)
