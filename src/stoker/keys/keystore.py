"""The registry of KEKs, what `keystore.json` and `tombstones.json` hold: bytes to records and back.

No files are touched here. See docs/design/keys.md, "keystore.json".
"""

from __future__ import annotations

import enum
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import cattrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from stoker.core.canonical import JsonValue, canonical_json, digest_of
from stoker.keys.errors import BadKekRef, KeystoreDamaged, KeystoreVersion
from stoker.keys.keystore_v1 import from_version_1
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.root import CHECK_BYTES, SALT_BYTES, RootKeys, ScryptCost
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekLife, KekState, check_life

VERSION: Final = 2
OLDEST_VERSION: Final = 1
MAX_FILE_BYTES: Final = 64 * 2**20
STORE_ID_BYTES: Final = 16
MAX_HANDLE_LETTERS: Final = 1024

_MAGIC: Final = "stoker-keystore"
_TOMBSTONES_MAGIC: Final = "stoker-tombstones"
_MEMBERS: Final = {"magic", "version", "id", "root", "root_check", "generation", "entries", "index", "mac"}
_RESTORE: Final = "It was changed outside Stoker. Restore it from a copy you trust."


@dataclass(frozen=True, slots=True)
class VaultRoot:
    """The root of a registry whose KEKs lie in a remote vault: wrapped by a KEK of its own there."""

    handle: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """What is in the open before the root is known.

    `scrypt` and `salt` stand for a passphrase, `vault` for a root that a vault wraps, none for a key file.
    """

    store_id: bytes
    root_check: bytes
    scrypt: ScryptCost | None = None
    salt: bytes | None = None
    vault: VaultRoot | None = None


class Told(enum.StrEnum):
    """What a vault was last told, and did, about a KEK."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DESTROYED = "destroyed"


_WANTED: Final = {
    KekState.SUSPENDED: Told.DISABLED,
    KekState.PENDING_DESTROY: Told.DISABLED,
    KekState.DESTROYED: Told.DESTROYED,
}


@dataclass(frozen=True, slots=True)
class KekEntry:
    """One KEK. Times are seconds since the Unix epoch. `handle` is the vault's; None once it is erased."""

    purpose: Purpose
    life: KekLife
    created_s: float
    activates_s: float
    wraps_until_s: float
    expires_s: float | None
    deactivated_s: float | None
    compromised_s: float | None
    destroyed_s: float | None
    wraps: int
    handle: str | None
    told: Told

    @property
    def wanted(self) -> Told:
        """What the vault should have been told."""
        return _WANTED.get(self.life.state, Told.ENABLED)


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
    version: int = VERSION
    """The format it was read in; it is written in the newest."""
    keks: dict[KekRef, KekEntry] = field(default_factory=dict)
    signers: dict[str, SignerEntry] = field(default_factory=dict)
    tombstones: dict[KekRef, Tombstone] = field(default_factory=dict)

    def draft(self) -> Keystore:
        """A copy with the next generation; entries are immutable and shared."""
        return Keystore(
            self.head,
            self.generation + 1,
            keks=dict(self.keks),
            signers=dict(self.signers),
            tombstones=dict(self.tombstones),
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


def root_context(store_id: bytes) -> bytes:
    """The wrap context of the root of the registry with this id, where a vault wraps it."""
    return b"stoker/registry-root/v1\0" + store_id


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
    if head.vault is not None:
        root = {"kind": "vault", "handle": head.vault.handle, "wrapped": head.vault.wrapped.hex()}
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


def decode_head(data: bytes, place: str) -> Head:
    """What is needed to derive the root, not yet authenticated. Raises KeystoreDamaged or KeystoreVersion."""
    body = _parse(data, _MAGIC, _MEMBERS, place)
    root = body["root"]
    scrypt, salt, vault = None, None, None
    if isinstance(root, dict) and root.get("kind") == "vault":
        _require(set(root) == {"kind", "handle", "wrapped"}, place, "its root has other members")
        vault = VaultRoot(_handle(root["handle"], place), _wrapped(root["wrapped"], place))
    elif isinstance(root, dict) and root.get("kind") == "scrypt":
        _require(set(root) == {"kind", "log2_n", "r", "p", "salt"}, place, "its root has other members")
        cost = [root[name] for name in ("log2_n", "r", "p")]
        _require(all(type(number) is int for number in cost), place, "its scrypt cost is not three integers")
        scrypt, salt = ScryptCost(*cost), _hex(root["salt"], SALT_BYTES, place, "salt")
    else:
        _require(root == {"kind": "key-file"}, place, "its root is neither a key file, scrypt nor a vault")
    return Head(
        store_id=_hex(body["id"], STORE_ID_BYTES, place, "id"),
        root_check=_hex(body["root_check"], CHECK_BYTES, place, "root_check"),
        scrypt=scrypt,
        salt=salt,
        vault=vault,
    )


def decode_keystore(data: bytes, keys: RootKeys, place: str) -> Keystore:
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
    store = Keystore(head, generation=body["generation"], version=body["version"])
    for name, entry in entries.items():
        _take_entry(store, name, entry, place)
    return store


def _take_entry(store: Keystore, name: str, entry: Any, place: str) -> None:
    kind, _, rest = name.partition("/")
    try:
        match kind:
            case "kek":
                up_to_date = from_version_1(entry) if store.version == 1 else entry
                kek = _CONVERTER.structure(up_to_date, KekEntry)
                check_life(kek.life)
                store.keks[KekRef.parse(rest)] = kek
            case "tombstone":
                store.tombstones[KekRef.parse(rest)] = _CONVERTER.structure(entry, Tombstone)
            case "signer":
                store.signers[rest] = _CONVERTER.structure(entry, SignerEntry)
            case _:
                _require(False, place, f"entry {name!a} is of no known kind")
    except (cattrs.BaseValidationError, BadKekRef, KeyError, TypeError, ValueError) as error:
        raise _damaged(place, f"entry {name!a} cannot be understood") from error


def encode_tombstones(store: Keystore, keys: RootKeys) -> bytes:
    """The bytes of `tombstones.json`."""
    tombstones = {str(ref): _CONVERTER.unstructure(stone) for ref, stone in store.tombstones.items()}
    body: dict[str, JsonValue] = {
        "magic": _TOMBSTONES_MAGIC,
        "version": 1,
        "id": store.head.store_id.hex(),
        "tombstones": tombstones,
    }
    mac = _mac(keys.tombstone_mac, b"stoker/tombstones/v1\0", body)
    return canonical_json({**body, "mac": mac}) + b"\n"


def decode_tombstones(data: bytes, keys: RootKeys, place: str) -> dict[KekRef, Tombstone]:
    """The content of `tombstones.json`. Raises KeystoreDamaged or KeystoreVersion."""
    body = _parse(data, _TOMBSTONES_MAGIC, {"magic", "version", "id", "tombstones", "mac"}, place, newest=1)
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


def _parse(data: bytes, magic: str, members: set[str], place: str, newest: int = VERSION) -> dict[str, Any]:
    try:
        body: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(place, "it is cut or garbled: not JSON") from error
    if not isinstance(body, dict) or body.get("magic") != magic:
        raise _damaged(place, f"it does not say that it is a {magic}")
    version = body.get("version")
    if type(version) is not int or not OLDEST_VERSION <= version <= newest:
        raise KeystoreVersion(
            f"{place} has format version {str(version)[:40]!a}; "
            f"this Stoker knows {OLDEST_VERSION} to {newest}.",
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


def _handle(value: object, place: str) -> str:
    fits = isinstance(value, str) and 0 < len(value) <= MAX_HANDLE_LETTERS and value.isascii()
    _require(fits, place, "the handle of its root is no handle")
    return str(value)


def _wrapped(value: object, place: str) -> bytes:
    fits = isinstance(value, str) and re.fullmatch(r"(?:[0-9a-f]{2}){1,1024}", value) is not None
    _require(fits, place, "its wrapped root is not 1 to 1024 bytes in hexadecimal")
    return bytes.fromhex(str(value))


def _mac(key: SecretKey, label: bytes, body: Mapping[str, JsonValue]) -> str:
    mac = HMAC(key.view(), hashes.SHA256())
    mac.update(label + canonical_json(body))
    return mac.finalize().hex()


def _hex(value: object, length: int, place: str, what: str) -> bytes:
    if not isinstance(value, str) or re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value) is None:
        raise _damaged(place, f"its {what} is not {length} bytes in hexadecimal")
    return bytes.fromhex(value)


def _require(holds: bool, place: str, otherwise: str) -> None:
    if not holds:
        raise _damaged(place, otherwise)


def _damaged(place: str, why: str) -> KeystoreDamaged:
    return KeystoreDamaged(f"{place} cannot be trusted: {why}.", hint=_RESTORE)
