"""docs/design/store.md is enough to read what is stored: a second reader, written from the page alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stoker.core.errors import ERROR_CLASSES, ROOM_EXIT_CODES
from stoker.core.signing import Ed25519Signer
from stoker.keys.refs import Purpose
from stoker.keys.secret import SecretKey
from stoker.store.header import build_header
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.payload import PayloadCipher
from stoker.store.ranges import BytesSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import shard_entry
from stoker.store.superblock import Superblock
from support.sealed_samples import KEK, LABEL, MemoryKeys, relabel

PAGE = (Path(__file__).parents[2] / "docs/design/store.md").read_text()


def _number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "big")


def _open_as_the_page_says(data: bytes, keys: MemoryKeys) -> tuple[dict[str, object], bytes]:
    assert data[:4] == b"STK1" and data[4:8] == b"\x01\x01\x00\x00" and data[13] == 0
    header_length, log2 = _number(data, 8, 2), data[10]
    s, k, w = (_number(data, offset, 2) for offset in (104, 106, 108))
    assert header_length == 142 + s + k + w
    subject, kek = data[110 : 110 + s].decode(), data[110 + s : 110 + s + k].decode()
    wrapped, commitment = data[110 + s + k : 110 + s + k + w], data[header_length - 32 : header_length]
    assert kek == str(KEK)
    purpose = [Purpose.SOURCE, Purpose.DATASET, Purpose.CHECKPOINT, Purpose.REPORT][data[12] - 1]
    fields = {
        "kind": data[11],
        "schema": _number(data, 14, 2),
        "shard": _number(data, 16, 8),
        "version": data[24:40].hex(),
        "review": data[40:72],
        "subject": subject,
    }

    key = bytes(keys.open_partition_key(KEK, wrapped, purpose).view())
    uncommitted = hashlib.sha256(data[: header_length - 32]).digest()
    prk = hmac.digest(data[72:104], key, "sha256")
    assert commitment == _expand(prk, b"stoker sealed stream 1 commitment" + uncommitted)
    stream_key = _expand(prk, b"stoker sealed stream 1 stream key" + uncommitted)
    header_digest = hashlib.sha256(data[:header_length]).digest()

    payload, size = data[header_length:], 1 << log2
    assert payload[0] == 40
    aead = AESGCM(HKDF(SHA256(), 32, payload[1:33], header_digest).derive(stream_key))
    chunks = [payload[start : start + size] for start in range(0, len(payload), size)]
    chunks[0] = chunks[0][40:]
    plain = b""
    for index, chunk in enumerate(chunks):
        last = b"\x01" if index == len(chunks) - 1 else b"\x00"
        plain += aead.decrypt(payload[33:40] + struct.pack(">I", index) + last, chunk, None)
    return fields, plain


def _expand(prk: bytes, info: bytes) -> bytes:
    return hmac.digest(prk, info + b"\x01", "sha256")


@pytest.mark.parametrize("length", [0, 1, (1 << 14) - 56, (1 << 14) - 55, 50_000])
def test_a_stream_is_as_the_page_says(length: int) -> None:
    keys, plain = MemoryKeys(), bytes(index % 251 for index in range(length))
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        data = bytes(seal.seal(LABEL, plain, chunk_log2=14).data)
    fields, opened = _open_as_the_page_says(data, keys)
    assert opened == plain
    assert fields == {
        "kind": 2,
        "schema": LABEL.schema,
        "shard": LABEL.shard,
        "version": LABEL.version,
        "review": LABEL.review_digest,
        "subject": LABEL.subject,
    }


def test_a_manifest_is_as_the_page_says() -> None:
    store, keys, writer = ObjectStore.open("memory://"), MemoryKeys(), ManifestWriter(fan_out=2)
    signer, prefix = Ed25519Signer.from_seed(b"s" * 32), "datasets/own-text/v"
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        for shard in range(5):
            sealed = seal.seal(relabel(shard=shard), bytes(shard), chunk_log2=14)
            store.create(shard_key(prefix, shard), sealed.data)
            writer.add(shard_entry(sealed, shard * 10))
    superblock = Superblock(LABEL.subject, LABEL.version, str(KEK), LABEL.review_digest, 14)
    root = writer.finish(superblock, signer, store, prefix)

    block = store.get(f"{prefix}/manifest/superblock.json")
    facts = json.loads(block)
    assert (facts["shards"], facts["samples"], facts["levels"], facts["fan_out"]) == (5, 100, 3, 2)
    top = store.get(f"{prefix}/manifest/page-2-00000000")
    hashed = hashlib.sha256(b"stoker manifest root 1" + hashlib.sha256(block).digest())
    hashed.update(hashlib.sha256(top).digest())
    assert hashed.hexdigest() == root
    signature = store.get(f"{prefix}/manifest/signature")
    assert (
        len(signature) == 104 and signature[:8] == b"STKS\x01\x01\x00\x00" and signature[8:40].hex() == root
    )
    public = Ed25519PublicKey.from_public_bytes(signer.public_key)
    public.verify(signature[40:], b"stoker manifest signature 1\x00" + bytes.fromhex(root))

    found = []
    wanted = [(0, hashlib.sha256(top).digest())]
    for level in (2, 1, 0):
        below = []
        for index, digest in wanted:
            page = store.get(f"{prefix}/manifest/page-{level}-{index:08d}")
            assert hashlib.sha256(page).digest() == digest
            count = _number(page, 16, 4)
            assert page[:8] == b"STKP\x01" + bytes([level]) + b"\x00\x00" and page[24:32] == bytes(8)
            assert (_number(page, 8, 8), _number(page, 20, 4), len(page)) == (index, 2, 32 + 64 * count)
            entries = [page[32 + 64 * slot : 96 + 64 * slot] for slot in range(count)]
            below += [(2 * index + slot, entry[:32]) for slot, entry in enumerate(entries)]
            found += entries if level == 0 else []
            assert level == 0 or all(entry[32:48] == bytes(16) for entry in entries)
        wanted = below
    for shard, entry in enumerate(found):
        data = store.get(f"{prefix}/{shard:08d}.stk")
        assert entry[:32] == hashlib.sha256(data).digest()
        assert entry[32:48] == hashlib.sha256(data[: _number(data, 8, 2)]).digest()[:16]
        assert (_number(entry, 48, 8), _number(entry, 56, 8)) == (len(data), shard * 10)
    assert len(found) == 5


class _FixedKey(MemoryKeys):
    def open_partition_key(self, kek, wrapped, purpose):  # type: ignore[no-untyped-def]
        return SecretKey.adopt(bytearray(range(32)))


def test_a_stream_written_with_version_1_opens_for_ever() -> None:
    """Fixed key, salts and content: these very bytes must stay valid as long as version 1 is read."""
    with SecretKey.adopt(bytearray(range(32))) as key:
        header, stream_key = build_header(LABEL, 14, Purpose.DATASET, KEK, b"wrapped", b"s" * 32, key)
    cipher = PayloadCipher(stream_key, header.digest, b"\x28" + b"t" * 32 + b"prefix-")
    sealed = memoryview(bytearray(5 + 16))
    cipher.seal_into(0, True, b"hello", sealed)
    data = header.encoded + cipher.header + bytes(sealed)
    assert hashlib.sha256(data).hexdigest() == (
        "c312fa4486c53317859c3890e7d7dbedf48a9833aeaf3c0799956a65c62bd2c7"
    )
    assert StreamReader.open(BytesSource(data), _FixedKey(), LABEL, place="x").read_all(5) == b"hello"


def test_the_page_lists_every_error_of_the_room() -> None:
    mine = {code: kind.__name__ for code, kind in ERROR_CLASSES.items() if code in ROOM_EXIT_CODES["store"]}
    assert len(mine) >= 18
    for code, name in mine.items():
        assert f"| {name} | {code} |" in PAGE


def test_the_page_quotes_every_figure_of_the_benchmark_that_has_a_goal() -> None:
    for name in ("seal_to_raw_seal", "open_to_raw_open", "open_file_to_raw_open_file"):
        assert f"`{name}`" in PAGE
