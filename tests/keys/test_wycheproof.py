"""The ciphers and the derivation that keys and streams stand on, judged by Project Wycheproof's vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pkcs11 import Attribute, KeyType, ObjectClass

from stoker.keys.errors import WrongContext
from stoker.keys.secret import KEY_BYTES, SecretKey
from stoker.keys.vaults.pkcs11_wrap import ABILITIES, GCM, KWP, gcm_decrypt, gcm_encrypt, kwp_unwrap, kwp_wrap
from stoker.keys.wrap import unwrap_key
from stoker.store.payload import PAYLOAD_HEADER_BYTES, PayloadCipher
from support.softhsm import soft_token

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str) -> list[dict[str, Any]]:
    groups = json.loads((VECTORS / name).read_text())["testGroups"]
    return [group | case for group in groups for case in group["tests"]]


def unhex(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


SIV = [case for case in cases("aes_gcm_siv_test.json") if case["keySize"] == 256]
HKDF_CASES = cases("hkdf_sha256_test.json")
GCM_CASES = [
    case
    for case in cases("aes_gcm_test.json")
    if (case["keySize"], case["ivSize"], case["tagSize"]) == (256, 96, 128)
]
KWP_CASES = [case for case in cases("aes_kwp_test.json") if case["keySize"] == 256]


def test_the_vectors_are_there() -> None:
    assert (len(SIV), len(HKDF_CASES), len(GCM_CASES), len(KWP_CASES)) == (103, 86, 66, 94)


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


@pytest.mark.parametrize(
    "case", [each for each in SIV if len(each["ct"]) == 2 * KEY_BYTES], ids=lambda case: str(case["tcId"])
)
def test_a_wrapped_key_opens_as_aes_256_gcm_siv_does(case: dict[str, Any]) -> None:
    key, nonce, aad, message, ciphertext, tag = unhex(case, "key", "iv", "aad", "msg", "ct", "tag")
    wrapped = b"STKW\x01\x01" + nonce + ciphertext + tag
    with SecretKey.adopt(bytearray(key)) as wrapping:
        if case["result"] == "valid":
            with unwrap_key(wrapping, wrapped, aad, "the vector") as opened:
                assert bytes(opened.view()) == message
        else:
            with pytest.raises(WrongContext):
                unwrap_key(wrapping, wrapped, aad, "the vector")


class VectorCipher(PayloadCipher):
    """A stream's cipher with the vector's key and nonce in the place of derived and counted ones."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        super().__init__(bytes(KEY_BYTES), b"", bytes(PAYLOAD_HEADER_BYTES))
        self._aead, self.nonce = AESGCM(key), nonce

    def _nonce(self, chunk: int, last: bool) -> bytes:
        return self.nonce


@pytest.mark.parametrize(
    "case", [each for each in GCM_CASES if not each["aad"]], ids=lambda case: str(case["tcId"])
)
def test_a_chunk_of_a_stream_is_aes_256_gcm(case: dict[str, Any]) -> None:
    key, nonce, message, ciphertext, tag = unhex(case, "key", "iv", "msg", "ct", "tag")
    cipher, opened = VectorCipher(key, nonce), bytearray(len(message))
    if case["result"] == "valid":
        sealed = bytearray(len(message) + 16)
        cipher.seal_into(0, True, message, memoryview(sealed))
        assert sealed == ciphertext + tag
        assert cipher.open_into(0, True, sealed, memoryview(opened))
        assert opened == message
    else:
        assert not cipher.open_into(0, True, ciphertext + tag, memoryview(opened))
        assert opened == bytes(len(opened))


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pkcs11.Session]:
    """A session on a token; vectors bring their own keys, which a KEK of ours never does."""
    with soft_token(tmp_path_factory.mktemp("token") / "hsm") as made, made.session() as session:
        yield session


def kek_of(session: pkcs11.Session, key: bytes, algorithm: int) -> Any:
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.VALUE: key,
            Attribute.TOKEN: False,
            **ABILITIES[algorithm],
        }
    )


@pytest.mark.parametrize("case", GCM_CASES, ids=lambda case: str(case["tcId"]))
def test_a_token_wraps_by_aes_256_gcm(case: dict[str, Any], token: pkcs11.Session) -> None:
    key, nonce, aad, message, ciphertext, tag = unhex(case, "key", "iv", "aad", "msg", "ct", "tag")
    kek = kek_of(token, key, GCM)
    if case["result"] == "valid":
        assert gcm_encrypt(kek, nonce, message, aad) == ciphertext + tag
        assert gcm_decrypt(kek, nonce, ciphertext + tag, aad) == message
    else:
        with pytest.raises(pkcs11.PKCS11Error):
            gcm_decrypt(kek, nonce, ciphertext + tag, aad)


@pytest.mark.parametrize("case", KWP_CASES, ids=lambda case: str(case["tcId"]))
def test_a_token_wraps_by_aes_256_kwp(case: dict[str, Any], token: pkcs11.Session) -> None:
    key, message, ciphertext = unhex(case, "key", "msg", "ct")
    kek = kek_of(token, key, KWP)
    # SoftHSM pads lengths that are no multiple of 8 in a way of its own before it wraps; ours are 64 bytes.
    if case["result"] == "valid" and len(message) % 8 == 0:
        assert kwp_wrap(kek, message) == ciphertext
    if case["result"] == "invalid":
        with pytest.raises(pkcs11.PKCS11Error):
            kwp_unwrap(kek, ciphertext)
    else:
        assert kwp_unwrap(kek, ciphertext) == message
