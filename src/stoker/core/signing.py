"""Ed25519 signatures (RFC 8032): verification raises, it never returns False."""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stoker.core.errors import BadSignature


class Signer(Protocol):
    """Something that holds a private key and signs with it."""

    @property
    def public_key(self) -> bytes:
        """The raw 32-byte Ed25519 public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        ...


class Ed25519Signer:
    """A signer whose private key is in this process's memory."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key

    @classmethod
    def from_seed(cls, seed: bytes | bytearray) -> Ed25519Signer:
        """The signer for a 32-byte seed."""
        return cls(Ed25519PrivateKey.from_private_bytes(bytes(seed)))

    @property
    def public_key(self) -> bytes:
        return self._private_key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"Ed25519Signer(public_key={self.public_key.hex()})"


def verify_signature(public_key: bytes, signature: bytes, message: bytes, what: str) -> None:
    """Raise BadSignature, naming `what`, unless `signature` is `public_key`'s over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(
            f"The signature of {what} does not hold.",
            hint="It was changed after signing, or signed by another key. Restore it from a copy you trust.",
        ) from error
