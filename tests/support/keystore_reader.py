"""An independent reader of a file key store, written from docs/design/keys.md with the standard library.

It shares no code with stoker.keys but AES-GCM-SIV, and so judges the page and the code at once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_root_key(folder: Path) -> bytes:
    content = (folder / "root.key").read_bytes()
    assert len(content) == 48
    assert content[:8] == b"STKROOT\x01"
    assert hashlib.sha256(content[:40]).digest()[:8] == content[40:]
    return content[8:40]


def passphrase_root(folder: Path, passphrase: str) -> bytes:
    root = json.loads((folder / "keystore.json").read_bytes())["root"]
    n = 2 ** root["log2_n"]
    salt = bytes.fromhex(root["salt"])
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, n=n, r=root["r"], p=root["p"], maxmem=2**29, dklen=32
    )


def derive(root: bytes, store_id: bytes, label: str) -> bytes:
    """HKDF-SHA256 with one block of output, as in RFC 5869."""
    pseudorandom = hmac.digest(store_id, root, "sha256")
    return hmac.digest(pseudorandom, b"stoker/keys/v1/" + label.encode() + b"\x01", "sha256")


def unwrap(key: bytes, wrapped: bytes, context: bytes) -> bytes:
    assert len(wrapped) == 66
    assert wrapped[:6] == b"STKW\x01\x01"
    return AESGCMSIV(key).decrypt(wrapped[6:18], wrapped[18:], context)


def live_secrets(folder: Path, root: bytes) -> dict[str, bytes]:
    """Every secret that the key store holds or derives, by a name for it; asserts that both MACs hold."""
    data = (folder / "keystore.json").read_bytes()
    store = json.loads(data)
    assert canonical(store) + b"\n" == data
    store_id = bytes.fromhex(store["id"])
    labels = ("kek-wrap", "signer-wrap", "canary", "mask", "keystore-mac", "tombstone-mac")
    secrets = {"root": root} | {label: derive(root, store_id, label) for label in labels}
    assert derive(root, store_id, "root-check")[:16].hex() == store["root_check"]
    covered = {name: value for name, value in store.items() if name not in ("entries", "mac")}
    mac = hmac.digest(secrets["keystore-mac"], b"stoker/keystore/v1\0" + canonical(covered), "sha256")
    assert mac.hex() == store["mac"]
    for name, entry in store["entries"].items():
        assert hashlib.sha256(canonical([name, entry])).hexdigest() == store["index"][name]
        kind = name.split("/")[0]
        wrapped, bound = entry.get("wrapped"), entry.get("public_key")
        if entry.get("handle") is not None:
            form, wrapped = entry["handle"].rsplit(":", 1)
            bound = {"v1": form.split(":")[-1], "v2": "kek"}[form.split(":")[0]]
        if wrapped is not None:
            context = b"stoker/keystore/v1\0" + canonical([store["id"], name, bound])
            secrets[name] = unwrap(secrets[f"{kind}-wrap"], bytes.fromhex(wrapped), context)
    return secrets
