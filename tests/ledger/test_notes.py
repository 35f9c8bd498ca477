"""Checkpoints against the signed-note example of the Go project and the rules of C2SP."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import BadSignature
from stoker.core.signing import Ed25519Signer
from stoker.ledger import notes
from stoker.ledger.notes import MalformedNote

SIGNER = Ed25519Signer.from_seed(bytes(range(32)))
ROOT = bytes(range(32, 64))

# The example of golang.org/x/mod/sumdb/note.
GO_VERIFIER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SIGNER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotp"
    "RZb6KE6RyyBwJnAM=\n"
)


def checkpoint_text(size: int = 7) -> str:
    return notes.sign_checkpoint(size, ROOT, SIGNER).text


def resigned(body: str, name: str | None = None) -> str:
    """`body` signed by the right key, whatever it says."""
    return notes.sign_note(body, name or notes.origin_of(SIGNER.public_key), SIGNER)


def test_a_note_is_signed_byte_for_byte_as_the_go_project_signs_it() -> None:
    assert notes.sign_note(GO_TEXT, "PeterNeumann", Ed25519Signer.from_seed(GO_SIGNER_SEED)) == GO_NOTE


def test_a_note_of_the_go_project_verifies() -> None:
    public_key = base64.b64decode(GO_VERIFIER_KEY.rpartition("+")[2])[1:]
    assert notes.key_hash("PeterNeumann", public_key).hex() == "c74f20a3"
    assert notes.verify_note(GO_NOTE, "PeterNeumann", public_key) == GO_TEXT


def test_a_checkpoint_has_the_lines_that_c2sp_asks_for() -> None:
    lines = checkpoint_text(20_852_163).split("\n")
    origin = notes.origin_of(SIGNER.public_key)
    assert lines[:4] == [origin, "20852163", base64.b64encode(ROOT).decode(), ""]
    assert lines[4].startswith(f"— {origin} ")
    assert lines[5:] == [""]
    signature = base64.b64decode(lines[4].split(" ")[2])
    assert signature[:4] == notes.key_hash(origin, SIGNER.public_key)
    assert len(signature) == 4 + 64


def test_the_checkpoint_example_of_c2sp_parses() -> None:
    text = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGz"
        "Gku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    checkpoint = notes.parse_checkpoint(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")


@pytest.mark.parametrize("size", [0, 1, 2**63])
def test_a_checkpoint_is_read_back(size: int) -> None:
    checkpoint = notes.sign_checkpoint(size, ROOT, SIGNER)
    assert notes.verify_checkpoint(checkpoint.text, SIGNER.public_key) == checkpoint


def test_extension_lines_are_let_through_when_signed() -> None:
    origin = notes.origin_of(SIGNER.public_key)
    root = base64.b64encode(ROOT).decode()
    text = resigned(f"{origin}\n7\n{root}\nsomething new\n")
    assert notes.verify_checkpoint(text, SIGNER.public_key).size == 7


def test_a_witness_may_add_its_own_signature_line() -> None:
    witness = Ed25519Signer.from_seed(b"w" * 32)
    text = checkpoint_text()
    body = text.split("\n\n")[0] + "\n"
    cosigned = text + notes.sign_note(body, "witness.example", witness).rpartition("\n\n")[2]
    assert notes.verify_checkpoint(cosigned, SIGNER.public_key).size == 7
    assert notes.verify_note(cosigned, "witness.example", witness.public_key) == body


def test_a_second_bad_signature_of_the_same_key_spoils_the_note() -> None:
    text = checkpoint_text()
    other = checkpoint_text(8).rpartition("\n\n")[2]
    with pytest.raises(BadSignature):
        notes.verify_checkpoint(text + other, SIGNER.public_key)


def test_another_ledgers_checkpoint_is_refused() -> None:
    other = Ed25519Signer.from_seed(b"o" * 32)
    with pytest.raises(BadSignature, match="bears no signature of stoker-ledger-"):
        notes.verify_checkpoint(checkpoint_text(), other.public_key)


def test_a_checkpoint_of_another_origin_is_refused_even_when_signed() -> None:
    root = base64.b64encode(ROOT).decode()
    with pytest.raises(BadSignature, match=r"log 'elsewhere\.example'"):
        notes.verify_checkpoint(resigned(f"elsewhere.example\n7\n{root}\n"), SIGNER.public_key)


@given(place=st.integers(0, 10_000), replacement=st.characters(blacklist_categories=("Cs",)))
def test_no_changed_character_is_accepted(place: int, replacement: str) -> None:
    text = checkpoint_text()
    place %= len(text)
    changed = text[:place] + replacement + text[place + 1 :]
    if changed == text:
        assert notes.verify_checkpoint(changed, SIGNER.public_key).size == 7
        return
    with pytest.raises((BadSignature, MalformedNote)):
        notes.verify_checkpoint(changed, SIGNER.public_key)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("origin\n7\n", "expected an origin"),
        ("\n7\nAAAA\n", "expected an origin|no blank line"),
        ("origin\n-7\nAAAA\n", "not a decimal"),
        ("origin\n\u0667\nAAAA\n", "not a decimal"),
        ("origin\n" + "9" * 21 + "\nAAAA\n", "not a decimal"),
        ("origin\n07\nAAAA\n", "leading zeroes"),
        ("origin\n7\nAAAA\n", "3 bytes instead of 32"),
        ("origin\n7\n????\n", "not base64"),
        ("origin\n7\n" + base64.b64encode(ROOT).decode()[:-2] + "9=\n", "canonical|not base64"),
        ("origin\n7\n" + base64.b64encode(ROOT).decode() + "\n\nlate\n", "no empty line"),
    ],
)
def test_a_malformed_body_is_named(body: str, reason: str) -> None:
    with pytest.raises(MalformedNote, match=reason):
        notes.parse_checkpoint(resigned(body))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no blank line"),
        ("body\n\n", "no blank line|signature line"),
        ("body\n\n— name AAAAAAAA", "no blank line"),
        ("body\n\n-- name AAAAAAAA\n", "not '— name base64'"),
        ("body\n\n— na me AAAAAAAA\n", "not '— name base64'"),
        ("body\n\n— na+me AAAAAAAA\n", "not '— name base64'"),
        ("body\n\n— na\u00a0me AAAAAAAA\n", "not '— name base64'"),
        ("body\n\n— name AAAA\n", "too short"),
        ("bo\rdy\n\n— name AAAAAAAA\n", "control characters"),
        ("bo\udc80dy\n\n— name AAAAAAAA\n", "not UTF-8"),
        ("a" * 131_072 + "\n\n— name AAAAAAAA\n", "at most 131072"),
    ],
)
def test_a_malformed_note_is_named(text: str, reason: str) -> None:
    with pytest.raises(MalformedNote, match=reason):
        notes.split_note(text)


def test_the_verifier_key_is_in_the_form_that_signed_note_programs_take() -> None:
    name, key_id, key = notes.verifier_key(SIGNER.public_key).split("+", 2)
    assert name == notes.origin_of(SIGNER.public_key)
    assert bytes.fromhex(key_id) == notes.key_hash(name, SIGNER.public_key)
    assert base64.b64decode(key) == b"\x01" + SIGNER.public_key
