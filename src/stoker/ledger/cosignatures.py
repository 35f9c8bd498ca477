"""Cosignatures of witnesses as C2SP writes them (tlog-cosignature, version 1): anyone can check them.

A witness says by one that it saw a log at a checkpoint, at a time, and that it had only grown until then.
Pure. See docs/design/ledger.md, "Witnesses".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stoker.core.signing import Signer, verify_signature
from stoker.ledger.notes import DASH, MalformedNote, is_key_name, split_note

_COSIGNATURE_V1: Final = b"\x04"
_TIME_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_HEADER: Final = "cosignature/v1"


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """The name and the raw Ed25519 public key (32 bytes) of a witness."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """SHA-256(name ‖ LF ‖ 0x04 ‖ public key), its first 4 bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + _COSIGNATURE_V1 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        """`name+hash+base64`, the form in which C2SP programs take it."""
        return (
            f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_COSIGNATURE_V1 + self.public_key).decode()}"
        )

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """Raises MalformedNote for a text that is no key of a witness."""
        name, _, rest = text.strip().partition("+")
        hash_text, _, key_text = rest.partition("+")
        try:
            data = base64.b64decode(key_text, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        key = cls(name, data[1:])
        if not is_key_name(name) or data[:1] != _COSIGNATURE_V1 or len(data) != 33:
            raise MalformedNote("expected the key of a witness, name+hash+base64, of C2SP's type 4")
        if key.key_id.hex() != hash_text:
            raise MalformedNote("the hash in the key of the witness is not that of its name and key")
        return key


@dataclass(frozen=True, slots=True)
class Cosignature:
    """That `witness` saw the checkpoint at `time_s` (seconds since 1970, UTC, by its own clock)."""

    witness: str
    time_s: int


def cosign(body: str, key_name: str, signer: Signer, time_s: int) -> str:
    """The signature line of a witness under the checkpoint whose signed part is `body`; ends with LF."""
    key = WitnessKey(key_name, signer.public_key)
    signed = struct.pack(">Q", time_s) + signer.sign(_message(body, time_s))
    return f"{DASH}{key_name} {base64.b64encode(key.key_id + signed).decode()}\n"


def cosignatures(text: str, keys: Iterable[WitnessKey]) -> tuple[Cosignature, ...]:
    """Those in the note `text` by one of `keys`, verified. Raises MalformedNote, BadSignature.

    Signatures by other keys are passed over.
    """
    body, signatures = split_note(text)
    found = []
    for key in keys:
        for name, data in signatures:
            if name == key.name and data[:4] == key.key_id:
                found.append(Cosignature(name, _verified_time(body, data[4:], key)))
    return tuple(found)


def _verified_time(body: str, data: bytes, key: WitnessKey) -> int:
    if len(data) != _TIME_BYTES + _SIGNATURE_BYTES:
        raise MalformedNote(
            f"the cosignature of {key.name} is not {_TIME_BYTES + _SIGNATURE_BYTES} bytes long"
        )
    time_s = int(struct.unpack(">Q", data[:_TIME_BYTES])[0])
    verify_signature(key.public_key, data[_TIME_BYTES:], _message(body, time_s), f"the witness {key.name}")
    return time_s


def _message(body: str, time_s: int) -> bytes:
    return f"{_HEADER}\ntime {time_s}\n{body}".encode()
