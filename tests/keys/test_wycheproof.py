"""The cipher and the derivation that keys stand on, judged by Project Wycheproof's vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str) -> list[dict[str, Any]]:
    groups = json.loads((VECTORS / name).read_text())["testGroups"]
    return [group | case for group in groups for case in group["tests"]]


def unhex(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


SIV = [case for case in cases("aes_gcm_siv_test.json") if case["keySize"] == 256]
HKDF_CASES = cases("hkdf_sha256_test.json")


def test_the_vectors_are_there() -> None:
    assert (len(SIV), len(HKDF_CASES)) == (103, 86)


@pytest.mark.parametrize("case", SIV, ids=lambda case: str(case["tcId"]))
def test_aes_256_gcm_siv(case: dict[str, Any]) -> None:
    key, nonce, aad, message, ciphertext, tag = unhex(case, "key", "iv", "aad", "msg", "ct", "tag")
    cipher = AESGCMSIV(bytearray(key))
    if case["result"] == "valid":
        assert cipher.encrypt(nonce, message, aad) == ciphertext + tag
        opened = bytearray(len(message))
        cipher.decrypt_into(nonce, ciphertext + tag, aad, opened)
        assert opened == message
    else:
        with pytest.raises(InvalidTag):
            cipher.decrypt_into(nonce, ciphertext + tag, aad, bytearray(len(ciphertext)))


@pytest.mark.parametrize("case", HKDF_CASES, ids=lambda case: str(case["tcId"]))
def test_hkdf_sha256(case: dict[str, Any]) -> None:
    ikm, salt, info, okm = unhex(case, "ikm", "salt", "info", "okm")
    if case["result"] == "valid":
        derived = bytearray(case["size"])
        HKDF(hashes.SHA256(), case["size"], salt, info).derive_into(memoryview(ikm), derived)
        assert derived == okm
    else:
        with pytest.raises(ValueError, match="larger than"):
            HKDF(hashes.SHA256(), case["size"], salt, info)
