"""The signers and canaries of a registry: the same on every machine that shares it."""

from __future__ import annotations

import re
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stoker.core.clock import Clock
from stoker.core.errors import BadName
from stoker.core.signing import Ed25519Signer, Signer
from stoker.keys.errors import KeystoreDamaged
from stoker.keys.keystore import Keystore, SignerEntry, secret_context
from stoker.keys.open_keystore import OpenKeystore
from stoker.keys.secret import SecretKey
from stoker.keys.wrap import unwrap_key, wrap_key

_SEGMENT = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_SIGNER_NAME: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,2}}")


class RegistrySigners:
    """Ed25519 signers whose seeds lie wrapped in the registry, and canaries out of its root."""

    def __init__(self, store: OpenKeystore[Any], clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def signer(self, name: str) -> Signer:
        """See KeyBackend. Raises BadName."""
        if _SIGNER_NAME.fullmatch(name) is None or ".." in name:
            raise BadName(
                f"{name[:200]!a} is not a signer's name.",
                hint="A signer is named like 'manifest' or 'identity/alice'.",
            )
        store = self._store.current()
        entry = store.signers.get(name) or self._store.change(lambda draft: self._add(draft, name))
        context = self._context(name, entry.public_key)
        wrapping = self._store.keys.signer_wrap
        with unwrap_key(wrapping, entry.wrapped, context, f"key store entry signer/{name}") as seed:
            signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(seed.view()))
        if signer.public_key != entry.public_key:
            raise KeystoreDamaged(f"The seed of signer {name} does not fit its public key.")
        return signer

    def _add(self, draft: Keystore, name: str) -> SignerEntry:
        found = draft.signers.get(name)
        if found is not None:
            return found
        with SecretKey.generate() as seed:
            public_key = Ed25519PrivateKey.from_private_bytes(seed.view()).public_key().public_bytes_raw()
            wrapped = wrap_key(self._store.keys.signer_wrap, seed, self._context(name, public_key))
        draft.signers[name] = SignerEntry(self._clock.now_s(), public_key, wrapped)
        return draft.signers[name]

    def _context(self, name: str, public_key: bytes) -> bytes:
        return secret_context(self._store.store_id, f"signer/{name}", public_key.hex())

    def canary(self, subject: str) -> str:
        """See KeyBackend. HKDF-SHA256 of the canary key, info `stoker/canary/v1/` and the subject."""
        info = b"stoker/canary/v1/" + subject.encode()
        hkdf = HKDF(algorithm=hashes.SHA256(), length=16, salt=self._store.store_id, info=info)
        return "stoker-canary-" + hkdf.derive(self._store.keys.canary.view()).hex()
