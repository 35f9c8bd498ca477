"""A key sealed under another key: 66 bytes of AES-256-GCM-SIV. See docs/design/keys.md, "Wrapped key"."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from stoker.keys.errors import WrongContext
from stoker.keys.secret import SecretKey

WRAPPED_BYTES: Final = 66
MAX_CONTEXT_BYTES: Final = 4096

_HEAD: Final = b"STKW\x01\x01"  # magic, version 1, algorithm 1
_NONCE_BYTES: Final = 12
_BODY_OFFSET: Final = len(_HEAD) + _NONCE_BYTES


def wrap_key(wrapping: SecretKey, key: SecretKey, context: bytes) -> bytes:
    """`key` sealed under `wrapping` and bound to `context` (at most 4,096 bytes)."""
    if len(context) > MAX_CONTEXT_BYTES:
        raise ValueError(f"a wrap context has at most {MAX_CONTEXT_BYTES} bytes, not {len(context)}")
    nonce = os.urandom(_NONCE_BYTES)
    return _HEAD + nonce + AESGCMSIV(wrapping.view()).encrypt(nonce, key.view(), context)


def unwrap_key(wrapping: SecretKey, wrapped: bytes, context: bytes, place: str) -> SecretKey:
    """The key inside `wrapped`, opened into locked memory. Raises WrongContext, which names `place`."""
    check_wrapped(wrapped, place)
    nonce = wrapped[len(_HEAD) : _BODY_OFFSET]
    key = SecretKey()
    try:
        AESGCMSIV(wrapping.view()).decrypt_into(nonce, wrapped[_BODY_OFFSET:], context, key.writable_view())
    except InvalidTag as error:
        key.wipe()
        raise WrongContext(
            f"The wrapped key of {place} does not open.",
            hint="It was changed, belongs to another KEK, or was wrapped for another place or purpose.",
        ) from error
    return key


def check_wrapped(wrapped: bytes, place: str) -> None:
    """Refuse what cannot be a wrapped key before any key is touched. Raises WrongContext."""
    if len(wrapped) != WRAPPED_BYTES:
        raise WrongContext(
            f"The wrapped key of {place} has {len(wrapped)} bytes; expected {WRAPPED_BYTES}.",
            hint="It was cut or is no wrapped key. Restore it from a copy you trust.",
        )
    if not wrapped.startswith(_HEAD):
        raise WrongContext(
            f"The wrapped key of {place} begins with {wrapped[: len(_HEAD)].hex()}; expected {_HEAD.hex()}.",
            hint="It was changed, or was written by a Stoker with another key format.",
        )
