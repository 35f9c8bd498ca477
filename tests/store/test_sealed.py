"""Nothing changed, cut, swapped or replayed is opened, and no unverified byte reaches the caller."""

from __future__ import annotations

import hashlib
import io
import random
import secrets
import struct

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from stoker.core.errors import StokerError
from stoker.keys.errors import KeyDestroyed, KeyUnknown
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.store import sealed as sealed_module
from stoker.store.errors import (
    BadLabel,
    CommitmentMismatch,
    CorruptStream,
    NotSealed,
    ObjectTooLarge,
    OutOfRange,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)
from stoker.store.header import FIXED_BYTES, SALT_BYTES, StreamKind, build_header, parse_header
from stoker.store.opened import OpenedKeys
from stoker.store.payload import ChunkGeometry, PayloadCipher
from stoker.store.ranges import BytesSource, FileSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal, SealedBytes
from support.sealed_samples import KEK, LABEL, MemoryKeys, relabel

LOG2 = 14
CHUNK = 1 << LOG2
GEOMETRY = ChunkGeometry(CHUNK)
PLACE = "datasets/own-text/v/00000007.stk"
PLAIN = random.Random(1).randbytes(GEOMETRY.plain_start(4) + 1000)


def _seal(
    keys: MemoryKeys, label=LABEL, plain: bytes = PLAIN, purpose: Purpose = Purpose.DATASET
) -> SealedBytes:
    with PartitionSeal(keys, KEK, purpose) as seal:
        return seal.seal(label, plain, chunk_log2=LOG2)


def _open(data: bytes, keys, label=LABEL, **options) -> StreamReader:
    return StreamReader.open(BytesSource(data), keys, label, place=PLACE, **options)


def _open_and_read(data: bytes, keys) -> None:
    reader = _open(data, keys)
    for start in range(0, reader.plaintext_bytes, 5000):
        reader.read(start, min(5000, reader.plaintext_bytes - start))


def test_any_range_reads_as_the_plaintext() -> None:
    keys = MemoryKeys()
    reader, choose = _open(_seal(keys).data, keys), random.Random(2)
    assert (reader.plaintext_bytes, reader.chunks) == (len(PLAIN), 5)
    assert reader.read_all(len(PLAIN)) == PLAIN
    edges = [GEOMETRY.plain_start(chunk) + off for chunk in range(5) for off in (-1, 0, 1)] + [len(PLAIN)]
    for _ in range(300):
        start, end = sorted(
            (choose.choice([*edges[1:], choose.randrange(len(PLAIN))]), choose.choice(edges[1:]))
        )
        assert reader.read(start, end - start) == PLAIN[start:end]
    target = bytearray(b"\xee" * 20_010)
    reader.read_into(100, memoryview(target)[5:-5])
    assert bytes(target) == b"\xee" * 5 + PLAIN[100:20_100] + b"\xee" * 5


def test_reads_past_the_end_are_refused() -> None:
    keys = MemoryKeys()
    reader = _open(_seal(keys).data, keys)
    for start, length in ((-1, 1), (0, len(PLAIN) + 1), (len(PLAIN), 1), (5, -1)):
        with pytest.raises(OutOfRange, match=PLACE):
            reader.read(start, length)
    with pytest.raises(ObjectTooLarge, match=f"at most {len(PLAIN) - 1}"):
        reader.read_all(len(PLAIN) - 1)
    assert reader.read(len(PLAIN), 0) == b""


def test_every_byte_of_the_header_is_held() -> None:
    """Each byte of each field is changed by one bit and by all; nothing recorded outside helps the reader."""
    keys = MemoryKeys()
    data = bytes(_seal(keys).data)
    header_bytes = len(parse_header(data, len(data), PLACE).encoded)
    for position in range(header_bytes):
        for change in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] ^= change
            with pytest.raises(StokerError) as caught:
                _open(bytes(broken), keys)
            assert PLACE in caught.value.message, f"byte {position}: {caught.value.message}"


def test_every_field_of_the_header_is_refused_in_its_own_words() -> None:
    keys = MemoryKeys()
    data = bytes(_seal(keys).data)
    subject, kek = len(LABEL.subject), len(str(KEK))
    wrapped = FIXED_BYTES + subject + kek
    fields = {
        "magic": (0, 4, NotSealed),
        "version": (4, 1, UnknownVersion),
        "suite": (5, 1, UnknownVersion),
        "flags": (6, 2, UnknownVersion),
        "header length": (8, 2, CorruptStream),
        "chunk log2": (10, 1, (CommitmentMismatch, CorruptStream, TruncatedStream)),
        "kind": (11, 1, (CorruptStream, SwappedStream)),
        "purpose": (12, 1, CorruptStream),
        "reserved": (13, 1, CorruptStream),
        "schema": (14, 2, SwappedStream),
        "shard": (16, 8, SwappedStream),
        "version id": (24, 16, SwappedStream),
        "review digest": (40, 32, SwappedStream),
        "salt": (72, 32, CommitmentMismatch),
        "subject length": (104, 2, CorruptStream),
        "kek length": (106, 2, CorruptStream),
        "wrapped length": (108, 2, CorruptStream),
        "subject": (FIXED_BYTES, subject, (CorruptStream, SwappedStream)),
        "kek": (FIXED_BYTES + subject, kek, (CorruptStream, KeyUnknown)),
        "wrapped key": (wrapped, 60, CorruptStream),
        "commitment": (wrapped + 60, 32, CommitmentMismatch),
        "payload header length": (wrapped + 92, 1, CorruptStream),
        "payload salt": (wrapped + 93, 32, CorruptStream),
        "payload nonce prefix": (wrapped + 125, 7, CorruptStream),
    }
    position = 0
    for name, (start, length, expected) in fields.items():
        assert start == position, name
        position += length
        for at in range(start, start + length):
            broken = bytearray(data)
            broken[at] ^= 0x01
            with pytest.raises(expected):
                _open(bytes(broken), keys)
    assert position == wrapped + 132


def test_200_random_changes_are_refused_and_the_chunk_is_named() -> None:
    keys, choose = MemoryKeys(), random.Random(3)
    data = bytes(_seal(keys).data)
    start = len(parse_header(data, len(data), PLACE).encoded)
    for _ in range(200):
        position = choose.randrange(start + 40, len(data))
        broken = bytearray(data)
        broken[position] ^= 1 << choose.randrange(8)
        chunk = (position - start) // CHUNK
        with pytest.raises(CorruptStream, match=rf"{PLACE}, chunk {chunk} of 5 \(bytes \d+ to \d+\)"):
            _open_and_read(bytes(broken), keys)


def test_no_unverified_byte_reaches_the_caller() -> None:
    """GCM decrypts before it verifies; what it wrote is wiped, and so are the good chunks before it."""
    keys = MemoryKeys()
    sealed = _seal(keys)
    broken = bytearray(sealed.data)
    start = len(broken) - sealed.facts.plaintext_bytes - 5 * 16 - 40
    broken[start + 2 * CHUNK + 77] ^= 0x10
    reader = _open(bytes(broken), keys)
    for begin, length in ((0, len(PLAIN)), (GEOMETRY.plain_start(2), GEOMETRY.capacity), (2 * CHUNK + 5, 9)):
        target = bytearray(b"\xee" * length)
        with pytest.raises(CorruptStream, match="chunk 2 of 5"):
            reader.read_into(begin, memoryview(target))
        assert bytes(target) == bytes(length)
    assert reader.read(0, 100) == PLAIN[:100]
    with pytest.raises(CorruptStream, match="chunk 2 of 5"):
        reader.read(GEOMETRY.plain_start(2), 1)


def test_a_chunk_that_does_not_hold_leaves_zeros_where_gcm_had_written() -> None:
    """The library's decrypt_into leaves the unverified plaintext behind; the payload cipher does not."""
    cipher = PayloadCipher.fresh(bytes(32), bytes(32))
    sealed = memoryview(bytearray(2 * 116))
    for chunk in (0, 1):
        cipher.seal_into(chunk, chunk == 1, b"x" * 100, sealed[chunk * 116 : (chunk + 1) * 116])
    sealed[120] ^= 1
    target = memoryview(bytearray(b"\xee" * 200))
    assert not cipher.open_into(1, True, sealed[116:], target[100:])
    assert bytes(target) == b"\xee" * 100 + bytes(100)
    target[100:] = b"\xee" * 100
    assert cipher.open_run(0, [100, 100], 1, sealed, target) == 1
    assert bytes(target) == b"x" * 100 + bytes(100)


def test_every_truncation_is_refused() -> None:
    keys = MemoryKeys()
    data = bytes(_seal(keys).data)
    start = len(parse_header(data, len(data), PLACE).encoded)
    cuts = {
        *range(0, start + 60),
        *range(start, len(data), 997),
        len(data) - 1,
        len(data) - 16,
        len(data) - 17,
    }
    for cut in cuts:
        with pytest.raises((TruncatedStream, CorruptStream, NotSealed), match=PLACE):
            _open(data[:cut], keys)
    for extra in (b"\x00", bytes(16), bytes(CHUNK)):
        with pytest.raises((TruncatedStream, CorruptStream), match=PLACE):
            _open(data + extra, keys)


def test_atk_002_a_cut_at_a_chunks_border_is_called_a_cut() -> None:
    keys = MemoryKeys()
    sealed = _seal(keys)
    data = bytes(sealed.data)
    start = len(parse_header(data, len(data), PLACE).encoded)
    for chunks in range(1, 5):
        cut = data[: start + chunks * CHUNK]
        with pytest.raises(
            TruncatedStream, match=f"chunk {chunks - 1} of {chunks} .*: the stream was cut here"
        ):
            _open(cut, keys)
        with pytest.raises(TruncatedStream, match=f"{len(cut)} bytes, where {len(data)} were recorded"):
            _open(cut, keys, object_bytes=len(data))


def test_atk_004_swapped_and_repeated_chunks_are_refused() -> None:
    keys = MemoryKeys()
    data = bytes(_seal(keys).data)
    start = len(parse_header(data, len(data), PLACE).encoded)
    chunks = [data[at : at + CHUNK] for at in range(start, len(data), CHUNK)]
    for first, second in ((1, 2), (2, 3), (1, 3)):
        swapped = list(chunks)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        with pytest.raises(CorruptStream, match=f"chunk {first} of 5"):
            _open_and_read(data[:start] + b"".join(swapped), keys)
    with pytest.raises(CorruptStream, match="chunk 2 of 5"):
        _open_and_read(data[:start] + b"".join([*chunks[:2], chunks[1], *chunks[3:]]), keys)
    with pytest.raises(CorruptStream, match="chunk 3 of 4"):
        _open_and_read(data[:start] + b"".join([chunks[0], *chunks[2:]]), keys)


def test_atk_006_a_chunk_from_another_shard_of_the_same_partition_key_is_refused() -> None:
    keys = MemoryKeys()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        one = bytearray(seal.seal(LABEL, PLAIN, chunk_log2=LOG2).data)
        other = bytes(seal.seal(relabel(shard=8), PLAIN, chunk_log2=LOG2).data)
        again = bytes(seal.seal(LABEL, PLAIN, chunk_log2=LOG2).data)
    assert keys.made == 1
    start = len(parse_header(other, len(other), PLACE).encoded)
    for donor in (other, again):
        for begin, end in ((start + CHUNK, start + 2 * CHUNK), (start, len(donor))):
            mixed = bytearray(one)
            mixed[begin:end] = donor[begin:end]
            with pytest.raises(CorruptStream, match="chunk"):
                _open_and_read(bytes(mixed), keys)


def test_atk_016_random_numbers_that_repeat_never_give_two_shards_one_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a machine that was copied while it ran: every salt and nonce comes twice."""
    monkeypatch.setattr(secrets, "token_bytes", lambda size=32: b"\x07" * size)
    keys = MemoryKeys()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        sealed = [
            bytes(seal.seal(label, PLAIN, chunk_log2=LOG2).data)
            for label in (LABEL, relabel(shard=8), relabel(version="f" * 32), LABEL)
        ]
    headers = [parse_header(data, len(data), PLACE) for data in sealed]
    assert len({header.salt for header in headers}) == 1
    with keys.open_partition_key(KEK, headers[0].wrapped_key, Purpose.DATASET) as key:
        stream_keys = [header.stream_key(key, PLACE) for header in headers]
    assert len(set(stream_keys[:3])) == 3, "the key depends on what the stream is, not on the salt alone"
    assert stream_keys[3] == stream_keys[0], "the very same shard again is what the manifest refuses"


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("kind", relabel(kind=StreamKind.ARTEFACT)),
        ("subject", relabel(subject="dataset/other")),
        ("version", relabel(version="cd" * 16)),
        ("shard", relabel(shard=8)),
        ("schema", relabel(schema=2)),
        ("review digest", relabel(review_digest=bytes(32))),
    ],
)
def test_atk_008_a_valid_stream_in_anothers_place_is_refused(field: str, label) -> None:
    keys = MemoryKeys()
    with pytest.raises(SwappedStream, match=f"{PLACE} is another stream than expected: its {field} is"):
        _open(_seal(keys, label).data, keys)


def test_atk_010_a_rollback_to_an_older_valid_stream_is_refused() -> None:
    keys = MemoryKeys()
    older, newer = _seal(keys), _seal(keys)
    for recorded in (newer.facts.header_digest, newer.facts.header_digest[:16]):
        assert _open(newer.data, keys, header_digest=recorded).read(0, 5) == PLAIN[:5]
        with pytest.raises(SwappedStream, match="not the recorded one"):
            _open(older.data, keys, header_digest=recorded)
    with pytest.raises(ValueError, match="16 or 32 bytes"):
        _open(newer.data, keys, header_digest=b"")


def test_a_stream_under_another_kek_than_expected_is_refused() -> None:
    other = KekRef("dataset/other/1", 1)
    keys = MemoryKeys(KEK, other)
    with PartitionSeal(keys, other, Purpose.DATASET) as seal:
        sealed = seal.seal(LABEL, PLAIN, chunk_log2=LOG2)
    assert _open(sealed.data, keys, kek=other).read(0, 5) == PLAIN[:5]
    with pytest.raises(SwappedStream, match=f"sealed under {other}, not a key of {KEK.scope}"):
        _open(sealed.data, keys, kek=KEK)


def test_a_stream_of_another_epoch_of_the_expected_scope_opens() -> None:
    """The checkpoints of a run whose key was rotated lie under several epochs."""
    later = KekRef(KEK.scope, KEK.epoch + 1)
    keys = MemoryKeys(KEK, later)
    for kek, expected in ((KEK, later), (later, KEK)):
        with PartitionSeal(keys, kek, Purpose.DATASET) as seal:
            sealed = seal.seal(LABEL, PLAIN, chunk_log2=LOG2)
        assert _open(sealed.data, keys, kek=expected).read(0, 5) == PLAIN[:5]


def test_a_stream_sealed_for_another_purpose_or_kek_does_not_open() -> None:
    other = KekRef("dataset/other/1", 1)
    keys = MemoryKeys(KEK, other)
    data = bytes(_seal(keys).data)
    position = data.index(b"0123456789abcdef") - len("dataset/own-text/")
    assert data[position:].startswith(str(KEK).encode())
    with pytest.raises(CorruptStream, match=f"{PLACE}, header: the wrapped partition key does not open"):
        _open(data[:12] + b"\x01" + data[13:], keys)
    keys.destroy(KEK)
    with pytest.raises(KeyDestroyed, match=f"{PLACE} cannot be opened: .*was destroyed"):
        _open(data, keys)


class _WrongPartitionKey:
    """A key service that unwraps to another key than the one that was wrapped."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        raise AssertionError("nothing is sealed here")

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        return SecretKey.adopt(bytearray(self._secret))


def _stream_key(secret: bytes, header: bytes, salt: bytes) -> bytes:
    """The derivation of docs/design/store.md, written a second time with another library's HKDF."""
    prk = HKDF.extract(SHA256(), salt, secret)
    digest = hashlib.sha256(header[:-32]).digest()
    return HKDFExpand(SHA256(), 32, b"stoker sealed stream 1 stream key" + digest).derive(prk)


def _multiply(one: int, other: int) -> int:
    """In GF(2^128) as GCM writes it: the first bit is the constant's."""
    product = 0
    for bit in range(127, -1, -1):
        if other >> bit & 1:
            product ^= one
        one = one >> 1 ^ (0xE1 << 120 if one & 1 else 0)
    return product


def _power(base: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = _multiply(result, base)
        base, exponent = _multiply(base, base), exponent >> 1
    return result


def _salamander(keys: list[bytes], nonce: bytes, blocks: int) -> bytes:
    """Ciphertext and tag that AES-GCM accepts under both keys (Dodis, Grubbs, Ristenpart, Woodage 2018)."""

    def encrypt(key: bytes, block: bytes) -> int:
        return int.from_bytes(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block))

    hashes = [encrypt(key, bytes(16)) for key in keys]
    masks = [encrypt(key, nonce + b"\x00\x00\x00\x01") for key in keys]
    cipher = [int.from_bytes(secrets.token_bytes(16)) for _ in range(blocks)]
    cipher[0] = 0
    lengths = blocks * 128

    def tag(which: int) -> int:
        total = 0
        for block in [*cipher, lengths]:
            total = _multiply(total ^ block, hashes[which])
        return total ^ masks[which]

    weight = _power(hashes[0], blocks + 1) ^ _power(hashes[1], blocks + 1)
    cipher[0] = _multiply(tag(0) ^ tag(1), _power(weight, 2**128 - 2))
    assert tag(0) == tag(1)
    return b"".join(block.to_bytes(16) for block in cipher) + tag(0).to_bytes(16)


def test_atk_014_an_invisible_salamander_opens_under_one_key_only() -> None:
    """One ciphertext that GCM opens under two keys: the payload lets it through, the commitment does not."""
    kms = MemoryKeys()
    first, wrapped = kms.new_partition_key(KEK, Purpose.DATASET)
    mine, yours = bytes(first.view()), secrets.token_bytes(32)
    header, stream_key = build_header(
        LABEL, LOG2, Purpose.DATASET, KEK, wrapped, secrets.token_bytes(SALT_BYTES), first
    )
    stream_keys = [_stream_key(secret, header.encoded, header.salt) for secret in (mine, yours)]
    assert stream_keys[0] == stream_key
    payload_header = b"\x28" + secrets.token_bytes(39)
    chunk_keys = [
        HKDF(SHA256(), 32, payload_header[1:33], header.digest).derive(stream_key)
        for stream_key in stream_keys
    ]
    chunk = _salamander(chunk_keys, payload_header[33:] + bytes(4) + b"\x01", 4)
    opened = []
    for stream_key in stream_keys:
        target = memoryview(bytearray(64))
        assert PayloadCipher(stream_key, header.digest, payload_header).open_into(0, True, chunk, target)
        opened.append(bytes(target))
    assert opened[0] != opened[1]

    data = header.encoded + payload_header + chunk
    assert _open(data, kms).read_all(64) == opened[0]
    with pytest.raises(CommitmentMismatch, match=f"{PLACE}, header: the commitment does not hold"):
        _open(data, _WrongPartitionKey(yours))


class _Counted(BytesSource):
    """Says it is longer than it is, and counts what was asked of it."""

    def __init__(self, data: bytes, says: int) -> None:
        super().__init__(data)
        self.says, self.asked = says, 0

    def size(self) -> int:
        return self.says

    def read(self, start: int, length: int) -> memoryview:
        self.asked += length
        return super().read(start, length)


def test_atk_012_lengths_are_capped_before_anything_is_allocated() -> None:
    keys = MemoryKeys()
    data = bytes(_seal(keys).data)
    source = _Counted(data, 1 << 60)
    with pytest.raises(TruncatedStream, match="no length of a sealed stream"):
        StreamReader.open(source, keys, LABEL, place=PLACE)
    assert source.asked < 2 * 2000, "what does not hold is read twice, and no more of it"
    for offset in (8, 104, 106, 108):
        broken = bytearray(data)
        struct.pack_into(">H", broken, offset, 65_535)
        with pytest.raises(CorruptStream, match=f"{PLACE}, header"):
            _open(bytes(broken), keys)


def test_a_source_that_gives_fewer_bytes_than_it_says_is_refused() -> None:
    keys = MemoryKeys()
    data = bytes(_seal(keys).data)
    with pytest.raises(TruncatedStream, match=PLACE):
        StreamReader.open(_Counted(data[:-20], len(data)), keys, LABEL, place=PLACE)


def test_streams_read_from_files(tmp_path) -> None:
    keys = MemoryKeys()
    sealed = _seal(keys)
    path = tmp_path / "x.stk"
    path.write_bytes(sealed.data)
    with FileSource(path) as source:
        reader = StreamReader.open(
            source,
            keys,
            LABEL,
            object_bytes=len(sealed.data),
            header_digest=sealed.facts.header_digest,
            place=PLACE,
        )
        assert reader.read_all(len(PLAIN)) == PLAIN
        path.write_bytes(bytes(sealed.data)[: 3 * CHUNK])
        with pytest.raises(TruncatedStream, match="became shorter"):
            reader.read(GEOMETRY.plain_start(3), 10)


def test_writing_piecewise_gives_the_facts_of_what_was_written() -> None:
    keys = MemoryKeys()
    for pieces in ([len(PLAIN)], [1, GEOMETRY.first_capacity - 1, GEOMETRY.capacity, 20_000], [7000] * 9):
        written, taken = io.BytesIO(), 0
        with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
            writer = seal.writer(LABEL, written, chunk_log2=LOG2)
            for piece in pieces:
                writer.write(PLAIN[taken : taken + piece])
                taken = min(taken + piece, len(PLAIN))
            facts = writer.finish()
        data = written.getvalue()
        header = parse_header(data, len(data), PLACE)
        assert facts.digest == hashlib.sha256(data).digest()
        assert (facts.header_digest, facts.object_bytes, facts.plaintext_bytes) == (
            header.digest,
            len(data),
            taken,
        )
        assert _open(data, keys).read_all(len(PLAIN)) == PLAIN[:taken]


def test_an_abandoned_writer_leaves_nothing_that_opens() -> None:
    keys, written = MemoryKeys(), io.BytesIO()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = seal.writer(LABEL, written, chunk_log2=LOG2)
        writer.write(PLAIN)
    assert len(written.getvalue()) > 3 * CHUNK
    with pytest.raises((TruncatedStream, CorruptStream)):
        _open(written.getvalue(), keys)


def test_atk_018_a_partition_key_seals_4096_streams_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = MemoryKeys()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        for _ in range(4096):
            seal.seal(LABEL, b"", chunk_log2=LOG2)
        assert keys.made == 1
        last = seal.seal(LABEL, b"next", chunk_log2=LOG2)
        assert keys.made == 2
    assert _open(last.data, keys).read_all(4) == b"next"
    monkeypatch.setattr(sealed_module, "MAX_BYTES_PER_KEY", 100)
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        for _ in range(3):
            seal.seal(LABEL, bytes(50), chunk_log2=LOG2)
        writer = seal.writer(LABEL, io.BytesIO(), chunk_log2=LOG2)
        writer.write(bytes(60))
        writer.finish()
        seal.writer(LABEL, io.BytesIO(), chunk_log2=LOG2)
    assert keys.made == 5


class _Watched(MemoryKeys):
    def __init__(self) -> None:
        super().__init__()
        self.given: list[SecretKey] = []

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        key, wrapped = super().new_partition_key(kek, purpose)
        self.given.append(key)
        return key, wrapped

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        key = super().open_partition_key(kek, wrapped, purpose)
        self.given.append(key)
        return key


def test_partition_keys_are_wiped_when_done() -> None:
    keys = _Watched()
    sealed = _seal(keys)
    _open(sealed.data, keys)
    with pytest.raises(SwappedStream):
        _open(sealed.data, keys, relabel(shard=9))
    with pytest.raises(CommitmentMismatch):
        _open(bytes(sealed.data)[:80] + bytes(8) + bytes(sealed.data)[88:], keys)
    assert len(keys.given) == 4 and all(key.wiped for key in keys.given), "the changed one was opened twice"


def test_opened_keys_are_unwrapped_once_and_wiped_at_the_end() -> None:
    keys = _Watched()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        streams = [seal.seal(relabel(shard=shard), b"x", chunk_log2=LOG2) for shard in range(5)]
    other = _seal(keys)
    keys.opened, keys.given = 0, []
    with OpenedKeys(keys, limit=1) as opened:
        for _ in range(2):
            for shard, stream in enumerate(streams):
                assert _open(stream.data, opened, relabel(shard=shard)).read_all(1) == b"x"
        assert keys.opened == 1
        assert not keys.given[0].wiped
        assert _open(other.data, opened).read(0, 1) == PLAIN[:1]
        assert keys.opened == 2 and keys.given[0].wiped
        key, _ = opened.new_partition_key(KEK, Purpose.DATASET)
        key.wipe()
    assert all(key.wiped for key in keys.given)


def test_labels_and_sizes_that_do_not_fit_are_refused() -> None:
    for changes in (
        {"subject": "dataset"},
        {"subject": "dataset/../x"},
        {"subject": "dataset/" + "x" * 64},
        {"version": "AB" * 16},
        {"version": "ab" * 15},
        {"shard": -1},
        {"shard": 1 << 64},
        {"schema": 1 << 16},
        {"review_digest": bytes(31)},
    ):
        with pytest.raises(BadLabel):
            relabel(**changes)
    with PartitionSeal(MemoryKeys(), KEK, Purpose.DATASET) as seal:
        for chunk_log2 in (13, 23):
            with pytest.raises(BadLabel, match=f"2\\^{chunk_log2}"):
                seal.seal(LABEL, b"", chunk_log2=chunk_log2)


def test_geometry_inverts_itself_at_every_border() -> None:
    for log2 in (14, 20, 22):
        geometry = ChunkGeometry(1 << log2)
        lengths = {0, 1} | {geometry.plain_start(c) + off for c in (1, 2, 3, 1000) for off in (-1, 0, 1)}
        for length in lengths:
            sealed = geometry.sealed_bytes(length)
            assert geometry.plaintext_bytes(sealed) == length
            chunks = geometry.chunks(length)
            assert sum(geometry.plain_length(c, length) for c in range(max(0, chunks - 3), chunks)) == (
                length - geometry.plain_start(max(0, chunks - 3))
            )
        assert [geometry.plaintext_bytes(n) for n in (0, 39, 55, 56, 57)] == [None, None, None, 0, 1]
        for border in ((1 << log2), 2 << log2):
            assert [geometry.plaintext_bytes(border + n) is None for n in (0, 1, 16, 17)] == [
                False,
                True,
                True,
                False,
            ]
