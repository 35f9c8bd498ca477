"""What a PKCS#11 token does to a key: AES-GCM with the context, or AES-KWP where a token has no GCM.

See docs/design/vaults.md, "Wrapped by a token". Both are AES-256 under a KEK that never leaves the token.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass

from stoker.keys.secret import KEY_BYTES, SecretKey

MAGIC: Final = b"STKH\x01"
GCM: Final = 1
KWP: Final = 2
NONCE_BYTES: Final = 12
TAG_BITS: Final = 128
SIZES: Final = {GCM: len(MAGIC) + 1 + NONCE_BYTES + KEY_BYTES + TAG_BITS // 8, KWP: len(MAGIC) + 1 + 72}
"""Bytes of a wrapped key by algorithm; the last byte of its head says which."""

MAX_WRAPS: Final = {GCM: 2**31, KWP: 2**32}
"""Half of what SP 800-38D, 8.3, allows a key whose nonces are random; SP 800-38F has no such limit."""

ABILITIES: Final = {
    GCM: {Attribute.ENCRYPT: True, Attribute.DECRYPT: True, Attribute.WRAP: False, Attribute.UNWRAP: False},
    KWP: {Attribute.ENCRYPT: False, Attribute.DECRYPT: False, Attribute.WRAP: True, Attribute.UNWRAP: True},
}
"""What a KEK may be used for, and no more."""

_PASSING: Final = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: False,
    Attribute.EXTRACTABLE: True,
}
"""A key that passes through the token's memory while it is wrapped or unwrapped by KWP."""


class NotThisKey(Exception):
    """What was opened is not what was asked for; the vault says it in its own words."""


def gcm_encrypt(kek: Any, nonce: bytes, plain: bytes, context: bytes) -> bytes:
    """Ciphertext and tag."""
    return bytes(
        kek.encrypt(plain, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, context, TAG_BITS))
    )


def gcm_decrypt(kek: Any, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    """The plaintext, as an immutable copy that Python frees by its own rules: hence the registry's mask."""
    return bytes(
        kek.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, context, TAG_BITS))
    )


def kwp_wrap(kek: Any, payload: bytes) -> bytes:
    """RFC 5649, SP 800-38F: `payload` as an object of the session, wrapped by the token."""
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.VALUE: payload,
        **_PASSING,
    }
    passing = kek.session.create_object(template)
    try:
        return bytes(kek.wrap_key(passing, mechanism=Mechanism.AES_KEY_WRAP_PAD))
    finally:
        passing.destroy()


def kwp_unwrap(kek: Any, wrapped: bytes) -> bytes:
    """The payload that `kwp_wrap` wrapped."""
    passing = kek.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.GENERIC_SECRET,
        wrapped,
        mechanism=Mechanism.AES_KEY_WRAP_PAD,
        template=_PASSING,
    )
    try:
        return bytes(passing[Attribute.VALUE])
    finally:
        passing.destroy()


def wrap(algorithm: int, session: Any, kek: Any, key: SecretKey, context: bytes) -> bytes:
    """`key` sealed under `kek` and bound to `context`. Nonces are the token's, not this machine's."""
    plain = bytes(key.view())
    if algorithm == GCM:
        nonce = bytes(session.generate_random(8 * NONCE_BYTES))
        sealed = nonce + gcm_encrypt(kek, nonce, plain, context)
    else:
        sealed = kwp_wrap(kek, plain + hashlib.sha256(context).digest())
    return MAGIC + bytes([algorithm]) + sealed


def well_formed(wrapped: bytes) -> bool:
    """Whether it has the form of a key that a token wrapped; looked at before the token is asked."""
    head = len(MAGIC)
    return wrapped[:head] == MAGIC and len(wrapped) > head and SIZES.get(wrapped[head]) == len(wrapped)


def unwrap(kek: Any, wrapped: bytes, context: bytes) -> SecretKey:
    """The key in `wrapped`, which is well formed. Raises NotThisKey, and what the token raises."""
    algorithm, body = wrapped[len(MAGIC)], wrapped[len(MAGIC) + 1 :]
    if not hasattr(kek, "decrypt" if algorithm == GCM else "unwrap_key"):
        raise NotThisKey  # a KEK for the other algorithm
    if algorithm == GCM:
        plain = gcm_decrypt(kek, body[:NONCE_BYTES], body[NONCE_BYTES:], context)
    else:
        payload = kwp_unwrap(kek, body)
        plain, bound = payload[:KEY_BYTES], payload[KEY_BYTES:]
        if not hmac.compare_digest(bound, hashlib.sha256(context).digest()):
            raise NotThisKey
    if len(plain) != KEY_BYTES:
        raise NotThisKey
    return SecretKey.adopt(bytearray(plain))


NOT_OPENED: Final = (
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.WrappedKeyInvalid,
    pkcs11.WrappedKeyLenRange,
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.SignatureInvalid,
    pkcs11.GeneralError,
    pkcs11.FunctionFailed,
)
"""What tokens answer when a tag is wrong. SoftHSM says GeneralError, so whether it lives is asked as well."""
