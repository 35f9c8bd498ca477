"""Signed notes and checkpoints as C2SP writes them (signed-note, tlog-checkpoint): anyone can check them.

Pure. See docs/design/ledger.md, "Checkpoints", for the bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from stoker.core.errors import BadSignature
from stoker.core.signing import Signer, verify_signature
from stoker.ledger.merkle import HASH_BYTES

MAX_NOTE_BYTES: Final = 131_072
_ED25519: Final = b"\x01"
DASH: Final = "\u2014 "


class MalformedNote(ValueError):
    """Text that is no checkpoint in the form of a signed note; the message says why."""


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """What the log was at one size, signed. `text` is the whole note and is what a witness keeps."""

    origin: str
    size: int
    root: bytes
    text: str


def origin_of(public_key: bytes) -> str:
    """The name of the log whose checkpoints `public_key` signs; also the name of the key."""
    return f"stoker-ledger-{hashlib.sha256(public_key).hexdigest()[:16]}"


def key_hash(name: str, public_key: bytes) -> bytes:
    """The 4-byte key id of signed-note: SHA-256(name ‖ LF ‖ 0x01 ‖ public key)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def verifier_key(public_key: bytes) -> str:
    """`name+hash+base64`, the form in which signed-note programs take a public key."""
    name = origin_of(public_key)
    return f"{name}+{key_hash(name, public_key).hex()}+{_base64(_ED25519 + public_key)}"


def parse_verifier_key(text: str) -> tuple[str, bytes]:
    """The name and the raw Ed25519 public key in `name+hash+base64`. Raises MalformedNote."""
    name, _, rest = text.strip().partition("+")
    hash_text, _, key_text = rest.partition("+")
    data = _from_base64(key_text, "the verifier key") if key_text else b""
    if not is_key_name(name) or data[:1] != _ED25519 or len(data) != 33:
        raise MalformedNote("expected a verifier key, name+hash+base64, of Ed25519")
    if key_hash(name, data[1:]).hex() != hash_text:
        raise MalformedNote("the hash in the verifier key is not that of its name and key")
    return name, data[1:]


def sign_note(body: str, name: str, signer: Signer) -> str:
    """`body` (ends with LF) with the signature line of `signer` under `name`."""
    signature = key_hash(name, signer.public_key) + signer.sign(body.encode())
    return f"{body}\n{DASH}{name} {_base64(signature)}\n"


def sign_checkpoint(size: int, root: bytes, signer: Signer) -> SignedCheckpoint:
    """The checkpoint of a log of `size` leaves with that `root`."""
    origin = origin_of(signer.public_key)
    body = f"{origin}\n{size}\n{_base64(root)}\n"
    return SignedCheckpoint(origin, size, root, sign_note(body, origin, signer))


def parse_checkpoint(text: str) -> SignedCheckpoint:
    """The fields of a checkpoint, without judging its signatures. Raises MalformedNote."""
    body, _ = split_note(text)
    lines = body.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise MalformedNote("expected an origin, a size and a root, each on its line, and no empty line")
    origin, size_text, root_text = lines[0], lines[1], lines[2]
    if not (size_text.isascii() and size_text.isdigit()) or len(size_text) > 20:
        raise MalformedNote("the size is not a decimal number")
    if len(size_text) > 1 and size_text.startswith("0"):
        raise MalformedNote("the size has leading zeroes")
    root = _from_base64(root_text, "the root")
    if len(root) != HASH_BYTES:
        raise MalformedNote(f"the root has {len(root)} bytes instead of {HASH_BYTES}")
    return SignedCheckpoint(origin, int(size_text), root, text)


def split_note(text: str) -> tuple[str, list[tuple[str, bytes]]]:
    """The signed body, and each signature line's name and bytes (id ‖ signature). Raises MalformedNote."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise MalformedNote("it is not UTF-8 text") from None
    if length > MAX_NOTE_BYTES:
        raise MalformedNote(f"it has {length} bytes; at most {MAX_NOTE_BYTES} are allowed")
    if any(ord(character) < 0x20 and character != "\n" for character in text):
        raise MalformedNote("it holds control characters")
    head, divider, tail = text.rpartition("\n\n")
    if not divider or not head or not tail.endswith("\n"):
        raise MalformedNote("there is no blank line before signatures")
    signatures: list[tuple[str, bytes]] = []
    for line in tail[:-1].split("\n"):
        parts = line.removeprefix(DASH).split(" ")
        if not line.startswith(DASH) or len(parts) != 2 or not is_key_name(parts[0]):
            raise MalformedNote("a signature line is not '— name base64'")
        signature = _from_base64(parts[1], "a signature")
        if len(signature) < 5:
            raise MalformedNote("a signature is too short")
        signatures.append((parts[0], signature))
    return head + "\n", signatures


def verify_note(text: str, name: str, public_key: bytes) -> str:
    """The body of the note, once the signature of `public_key` under `name` holds.

    Signatures by other keys are passed over, as signed-note asks. Raises MalformedNote, and BadSignature when
    the key has not signed or its signature does not hold.
    """
    body, signatures = split_note(text)
    wanted = key_hash(name, public_key)
    ours = [signature for signer, signature in signatures if (signer, signature[:4]) == (name, wanted)]
    if not ours:
        raise BadSignature(
            f"The note bears no signature of {name}.",
            hint="It was made by another ledger, or its signature was removed.",
        )
    for signature in ours:
        verify_signature(public_key, signature[4:], body.encode(), "the signed note")
    return body


def verify_checkpoint(text: str, public_key: bytes) -> SignedCheckpoint:
    """The checkpoint in `text`, once its origin and signature are those of `public_key`'s log.

    Raises MalformedNote and BadSignature.
    """
    origin = origin_of(public_key)
    verify_note(text, origin, public_key)
    checkpoint = parse_checkpoint(text)
    if checkpoint.origin != origin:
        raise BadSignature(
            f"The checkpoint is of log {checkpoint.origin[:80]!a}, not of {origin}.",
            hint="Use the checkpoint of this ledger.",
        )
    return checkpoint


def is_key_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(character.isspace() for character in text)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedNote(f"{what} is not base64") from None
    if _base64(data) != text:
        raise MalformedNote(f"{what} is not in the one canonical base64 form")
    return data
