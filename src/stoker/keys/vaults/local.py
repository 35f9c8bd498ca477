"""The vault of the file back end: KEKs wrapped by the root, each in its own handle in `keystore.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stoker.keys.errors import KeystoreDamaged
from stoker.keys.keystore import secret_context
from stoker.keys.refs import KekRef
from stoker.keys.root import RootKeys
from stoker.keys.secret import SecretKey
from stoker.keys.wrap import check_wrapped, unwrap_key, wrap_key

MAX_WRAPS: Final = 2**32
"""AES-256-GCM-SIV bears far more under random nonces (RFC 8452, section 9)."""


class LocalVault:
    """KEKs that never leave this process but wrapped. Destroying one is erasing its handle."""

    name = "file"
    embedded = True
    max_wraps = MAX_WRAPS

    def __init__(self, keys: RootKeys, store_id: bytes) -> None:
        """`keys` stay the caller's, who wipes them."""
        self._keys = keys
        self._store_id = store_id

    def create(self, ref: KekRef) -> str:
        """See KekVault."""
        with SecretKey.generate() as kek:
            return "v2:" + wrap_key(self._keys.kek_wrap, kek, self._context(ref, "kek")).hex()

    def wrap(self, handle: str, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KekVault."""
        with self._kek(handle, ref) as kek:
            return wrap_key(kek, key, context)

    def unwrap(self, handle: str, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """See KekVault."""
        place = f"KEK {ref}"
        check_wrapped(wrapped, place)
        with self._kek(handle, ref) as kek:
            return unwrap_key(kek, wrapped, context, place)

    def unwrap_many(
        self, handle: str, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]]
    ) -> list[SecretKey]:
        """See KekVault."""
        place, opened = f"KEK {ref}", list[SecretKey]()
        try:
            with self._kek(handle, ref) as kek:
                for each, context in wrapped:
                    opened.append(unwrap_key(kek, each, context, place))
        except BaseException:
            for key in opened:
                key.wipe()
            raise
        return opened

    def _kek(self, handle: str, ref: KekRef) -> SecretKey:
        form, _, rest = handle.partition(":")
        bound = "kek"
        if form == "v1":  # made before handles were: bound to the KEK's purpose
            bound, _, rest = rest.partition(":")
        try:
            wrapped = bytes.fromhex(rest)
        except ValueError as error:
            raise KeystoreDamaged(f"The handle of KEK {ref} cannot be understood.") from error
        return unwrap_key(
            self._keys.kek_wrap, wrapped, self._context(ref, bound), f"key store entry kek/{ref}"
        )

    def _context(self, ref: KekRef, bound: str) -> bytes:
        return secret_context(self._store_id, f"kek/{ref}", bound)

    def disable(self, handle: str, ref: KekRef) -> None:
        """Nothing to do: the registry's word is all there is between a KEK and this process."""

    def enable(self, handle: str, ref: KekRef) -> None:
        """Nothing to do."""

    def destroy(self, handle: str, ref: KekRef) -> None:
        """Nothing to do: the registry erases the handle, and with it the KEK."""

    def exists(self, handle: str, ref: KekRef) -> bool:
        """See KekVault: as long as there is a handle."""
        return True

    def erased_at_s(self, handle: str, ref: KekRef) -> float | None:
        """See KekVault: None, since a handle is forgotten at once."""
        return None

    def close(self) -> None:
        """Nothing to do: the root's keys are the registry's."""
