"""The result envelope, canonical JSON and signatures."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from stoker.core.canonical import canonical_json, digest_of
from stoker.core.errors import BadName, BadSignature
from stoker.core.result import envelope, error_envelope, plain
from stoker.core.signing import Ed25519Signer, verify_signature


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Answer:
    kind: ClassVar[str] = "answer"
    version: ClassVar[int] = 1
    count: int
    loss: float
    where: Path
    colours: tuple[Colour, ...]
    digest: bytes


def test_envelope_has_kind_version_and_plain_data() -> None:
    text = envelope(Answer(1, float("nan"), Path("a/b"), (Colour.RED,), b"\x01\xff"))
    assert json.loads(text) == {
        "ok": True,
        "kind": "answer",
        "version": 1,
        "data": {"count": 1, "loss": None, "where": "a/b", "colours": ["red"], "digest": "01ff"},
    }


def test_error_envelope_has_id_message_and_hint() -> None:
    assert json.loads(error_envelope(BadName("m", hint="h"))) == {
        "ok": False,
        "error": {"id": "bad-name", "message": "m", "hint": "h"},
    }


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain(object())


def test_canonical_json_is_one_byte_string_per_value() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert digest_of({"b": 1, "a": [1, 2]}) == digest_of({"a": [1, 2], "b": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_a_signature_holds_only_for_its_message_and_key() -> None:
    signer = Ed25519Signer.from_seed(bytes(32))
    signature = signer.sign(b"message")
    verify_signature(signer.public_key, signature, b"message", "x")
    other = Ed25519Signer.from_seed(bytes([1]) * 32)
    for key, sig, message in [
        (signer.public_key, signature, b"massage"),
        (other.public_key, signature, b"message"),
        (signer.public_key, signature[:-1] + b"\x00", b"message"),
        (signer.public_key, b"", b"message"),
        (b"short", signature, b"message"),
    ]:
        with pytest.raises(BadSignature, match="signature of the manifest"):
            verify_signature(key, sig, message, "the manifest")
    assert "seed" not in repr(signer)
