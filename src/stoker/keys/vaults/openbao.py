"""KEKs in the transit engine of OpenBao: one transit key for each KEK, which never leaves it.

See docs/design/vaults.md, "OpenBao".
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

from stoker.keys.errors import KeyDestroyed, VaultRefused, VaultUnreachable, WrongContext
from stoker.keys.refs import KekRef
from stoker.keys.secret import KEY_BYTES, SecretKey
from stoker.keys.vaults.bao_link import BaoLink, BaoPlace, NotAllowed, NotKnown
from stoker.keys.vaults.patience import Patience

MAGIC: Final = b"STKB\x01"
WRAPPED_BYTES: Final = len(MAGIC) + 12 + KEY_BYTES + 16
"""The head, a nonce, the ciphertext, a tag."""

SLICE: Final = 200
"""Keys in one request: OpenBao 2.7 refuses JSON with more than 1,000 strings, and each key takes four."""

_PREFIX: Final = "vault:v1:"
_HANDLE: Final = re.compile(r"stoker-[0-9a-f]{32}")
_LOGIN: Final = "login"
"""The subject that rests in Patience when the token is refused, whichever KEK it was for."""

_KEPT: Final = {
    "type": "aes256-gcm96",
    "exportable": False,
    "allow_plaintext_backup": False,
    "deletion_allowed": False,
    "derived": False,
    "imported_key": False,
}
"""What transit must say of a key that it made."""


class OpenBaoVault:
    """A KekVault whose handles are names of transit keys."""

    embedded: Final = False
    max_wraps: Final = 2**31
    """Half of what SP 800-38D allows AES-GCM with random nonces."""

    def __init__(self, place: BaoPlace, *, patience: Patience | None = None) -> None:
        """Asks for nothing before the first use. See `open_openbao`."""
        self._link = BaoLink(place)
        self._name = place.name
        self._patience = patience or Patience()

    @property
    def name(self) -> str:
        """See KekVault."""
        return self._name

    def create(self, ref: KekRef) -> str:
        """See KekVault. Raises VaultRefused when the service would let the KEK out."""
        handle = f"stoker-{secrets.token_hex(16)}"
        wanted = {"type": "aes256-gcm96", "exportable": False, "allow_plaintext_backup": False}
        self._ask(ref, "post", f"keys/{handle}", wanted)
        made = self._ask(ref, "get", f"keys/{handle}")
        if any(made.get(name, must) != must for name, must in _KEPT.items()) or "type" not in made:
            self.destroy(handle, ref)
            raise VaultRefused(
                f"{self.name} made a key that could leave it; it was destroyed again.",
                hint="Let nothing between Stoker and the service change what a transit key is made with.",
            )
        return handle

    def wrap(self, handle: str, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KekVault.

        Transit makes a key when it is asked to encrypt under one that it does not have. It refuses that when
        asked for convergent encryption without a derivation context, and reads this word in no other case.
        """
        body = {
            "plaintext": _text(key.view()),
            "associated_data": _text(context),
            "key_version": 1,
            "convergent_encryption": True,
        }
        answer = self._ask(ref, "post", f"encrypt/{self._checked(handle, ref)}", body)
        sealed = answer.get("ciphertext")
        body_bytes = _bytes(sealed.removeprefix(_PREFIX)) if isinstance(sealed, str) else None
        if body_bytes is None or len(MAGIC) + len(body_bytes) != WRAPPED_BYTES:
            raise VaultUnreachable(f"{self.name} answers with something that is no wrapped key.")
        return MAGIC + body_bytes

    def unwrap(self, handle: str, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """See KekVault."""
        return self.unwrap_many(handle, ref, [(wrapped, context)])[0]

    def unwrap_many(
        self, handle: str, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]]
    ) -> list[SecretKey]:
        """See KekVault: 200 keys a request, one request after the other."""
        for each, _ in wrapped:
            if len(each) != WRAPPED_BYTES or not each.startswith(MAGIC):
                raise WrongContext(
                    f"A wrapped key of {ref} has {len(each)} bytes or a head that no key of OpenBao has.",
                    hint="It was cut, changed, or wrapped by another key back end.",
                )
        path = f"decrypt/{self._checked(handle, ref)}"
        opened: list[SecretKey] = []
        try:
            for first in range(0, len(wrapped), SLICE):
                part = wrapped[first : first + SLICE]
                asked = [
                    {"ciphertext": _PREFIX + _text(each[len(MAGIC) :]), "associated_data": _text(context)}
                    for each, context in part
                ]
                answer = self._ask(ref, "post", path, {"batch_input": asked})
                opened += self._opened(answer, len(part))
        except BaseException:
            for key in opened:
                key.wipe()
            raise
        return opened

    def _opened(self, answer: dict[str, Any], count: int) -> list[SecretKey]:
        results = answer.get("batch_results")
        plain = [_plain(each) for each in results] if isinstance(results, list) else []
        keys = [SecretKey.adopt(each) for each in plain if each is not None]
        if len(plain) != count or len(keys) != count:
            for key in keys:
                key.wipe()
            raise VaultUnreachable(f"{self.name} answers with something that is no list of {count} keys.")
        return keys

    def disable(self, handle: str, ref: KekRef) -> None:
        """See KekVault: a soft deletion, so the service itself refuses every use, to every machine.

        A service that has none, such as HashiCorp Vault, goes on serving the KEK: only the registry refuses.
        """
        self._change(handle, ref, "delete", f"keys/{handle}/soft-delete")

    def enable(self, handle: str, ref: KekRef) -> None:
        """See KekVault."""
        self._change(handle, ref, "post", f"keys/{handle}/soft-delete-restore")

    def _change(self, handle: str, ref: KekRef, verb: str, path: str) -> None:
        self._checked(handle, ref)
        try:
            there = bool(self._ask_raw(ref, verb, path))  # 204: there was nothing to change
        except NotKnown:
            there = self.exists(handle, ref)
        if not there:
            raise self._gone(ref)

    def destroy(self, handle: str, ref: KekRef) -> None:
        """See KekVault. Only now may the key be deleted at all; then it is."""
        if _HANDLE.fullmatch(handle) is None:
            return
        try:
            self._ask(ref, "post", f"keys/{handle}/config", {"deletion_allowed": True})
            self._ask(ref, "delete", f"keys/{handle}")
        except KeyDestroyed:
            return  # before, or by another machine

    def exists(self, handle: str, ref: KekRef) -> bool:
        """See KekVault."""
        if _HANDLE.fullmatch(handle) is None:
            return False
        try:
            self._ask(ref, "get", f"keys/{handle}")
        except KeyDestroyed:
            return False
        return True

    def erased_at_s(self, handle: str, ref: KekRef) -> float | None:
        """See KekVault: None, since a key is deleted at once."""
        return None

    def close(self) -> None:
        """See KekVault."""
        self._link.close()

    def __enter__(self) -> OpenBaoVault:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, handle: str, ref: KekRef) -> str:
        if _HANDLE.fullmatch(handle) is None:
            raise self._gone(ref)
        return handle

    def _gone(self, ref: KekRef) -> Exception:
        return self._link.error(KeyDestroyed, ref)

    def _ask(self, ref: KekRef, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request. A token that is over rests for every KEK, a right that is missing for one."""
        try:
            return self._ask_raw(ref, verb, path, body)
        except NotKnown as error:
            raise self._link.not_known() from error

    def _ask_raw(
        self, ref: KekRef, verb: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The same. Raises NotKnown for a request that the service does not have."""

        def permitted() -> dict[str, Any]:
            try:
                return self._patience.ask(_LOGIN, lambda: self._link.ask(ref, verb, path, body))
            except NotAllowed as error:
                raise self._link.not_allowed(ref) from error

        return self._patience.ask(str(ref), permitted)


def _text(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _plain(result: object) -> bytearray | None:
    """The key in one result of a batch, or None when it holds none."""
    text = result.get("plaintext") if isinstance(result, dict) else None
    found = _bytes(text) if isinstance(text, str) else None
    return bytearray(found) if found is not None and len(found) == KEY_BYTES else None


def open_openbao(url: str) -> OpenBaoVault:
    """The mount named by `openbao+https://HOST:PORT/MOUNT?token_file=…`.

    Raises BadKeysUrl or InsecureLink; everything else at the first use.
    """
    return OpenBaoVault(BaoPlace.parse(url))
