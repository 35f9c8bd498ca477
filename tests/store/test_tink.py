"""Google's own Tink judges the payload, in both directions."""

from __future__ import annotations

import hashlib
import io
import secrets

import pytest
import tink
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from stoker.keys.refs import Purpose
from stoker.store.errors import CommitmentMismatch
from stoker.store.header import SALT_BYTES, build_header, parse_header
from stoker.store.payload import ChunkGeometry
from stoker.store.ranges import BytesSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal
from support.sealed_samples import KEK, LABEL, MemoryKeys

LOG2 = 14
GEOMETRY = ChunkGeometry(1 << LOG2)
N = GEOMETRY.first_capacity
LENGTHS = [0, 1, N - 1, N, N + 1, N + GEOMETRY.capacity - 1, N + GEOMETRY.capacity, 3 * N + 5, 100_000]


class _Kept(io.BytesIO):
    """Tink closes the file it writes to; the bytes are wanted afterwards."""

    def close(self) -> None:
        return None


def _tink(stream_key: bytes, chunk_log2: int = LOG2) -> streaming_aead.StreamingAead:
    streaming_aead.register()
    params = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=1 << chunk_log2, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
    )
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, params=params, key_value=stream_key)
    data = tink_pb2.KeyData(
        type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
        value=key.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    keyset = tink_pb2.Keyset(
        primary_key_id=1,
        key=[
            tink_pb2.Keyset.Key(
                key_data=data,
                status=tink_pb2.ENABLED,
                key_id=1,
                output_prefix_type=tink_pb2.RAW,
            )
        ],
    )
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def _tink_open(stream_key: bytes, payload: bytes, associated_data: bytes) -> bytes:
    with _tink(stream_key).new_decrypting_stream(io.BytesIO(payload), associated_data) as stream:
        return stream.read()


@pytest.mark.parametrize("length", LENGTHS)
def test_tink_opens_what_is_sealed_here(length: int) -> None:
    keys, plain = MemoryKeys(), secrets.token_bytes(length)
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        sealed = bytes(seal.seal(LABEL, plain, chunk_log2=LOG2).data)
        written = io.BytesIO()
        writer = seal.writer(LABEL, written, chunk_log2=LOG2)
        for start in range(0, length, 5000):
            writer.write(plain[start : start + 5000])
        facts = writer.finish()
    assert facts.object_bytes == len(written.getvalue()) == len(sealed)
    assert facts.digest == hashlib.sha256(written.getvalue()).digest()
    for stream in (sealed, written.getvalue()):
        header = parse_header(stream[:2000], len(stream), "the sample")
        with keys.open_partition_key(header.kek, header.wrapped_key, header.purpose) as partition_key:
            stream_key = header.stream_key(partition_key, "the sample")
        digest = hashlib.sha256(header.encoded).digest()
        assert _tink_open(stream_key, stream[len(header.encoded) :], digest) == plain


@pytest.mark.parametrize("length", LENGTHS)
def test_what_tink_seals_opens_here(length: int) -> None:
    keys, plain = MemoryKeys(), secrets.token_bytes(length)
    partition_key, wrapped = keys.new_partition_key(KEK, Purpose.DATASET)
    with partition_key:
        header, stream_key = build_header(
            LABEL, LOG2, Purpose.DATASET, KEK, wrapped, secrets.token_bytes(SALT_BYTES), partition_key
        )
    payload = _Kept()
    with _tink(stream_key).new_encrypting_stream(payload, header.digest) as stream:
        stream.write(plain)
    sealed = header.encoded + payload.getvalue()
    reader = StreamReader.open(BytesSource(sealed), keys, LABEL, place="the sample")
    assert reader.plaintext_bytes == length
    assert reader.read_all(1 << 20) == plain
    if length:
        middle = length // 2
        assert reader.read(middle, length - middle) == plain[middle:]


def test_tink_at_the_default_chunk_size_and_across_the_largest_chunk() -> None:
    for chunk_log2 in (20, 22):
        keys, plain = MemoryKeys(), secrets.token_bytes((1 << chunk_log2) + 12345)
        with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
            sealed = bytes(seal.seal(LABEL, plain, chunk_log2=chunk_log2).data)
        header = parse_header(sealed[:2000], len(sealed), "the sample")
        with keys.open_partition_key(header.kek, header.wrapped_key, header.purpose) as partition_key:
            stream_key = header.stream_key(partition_key, "the sample")
        payload = io.BytesIO(sealed[len(header.encoded) :])
        with _tink(stream_key, chunk_log2).new_decrypting_stream(payload, header.digest) as stream:
            assert stream.read() == plain


def test_an_invisible_salamander_fails_at_the_commitment() -> None:
    """GCM alone lets one ciphertext open under two keys; the commitment lets no second key past the header.

    The wrapped key is what an attacker who holds a KEK would exchange: the header then names another
    partition key, everything else stays.
    """
    keys = MemoryKeys()
    first, wrapped = keys.new_partition_key(KEK, Purpose.DATASET)
    second, other_wrapped = keys.new_partition_key(KEK, Purpose.DATASET)
    assert len(wrapped) == len(other_wrapped)
    salt = secrets.token_bytes(SALT_BYTES)
    header, _ = build_header(LABEL, LOG2, Purpose.DATASET, KEK, wrapped, salt, first)
    forged = header.encoded.replace(wrapped, other_wrapped)
    assert forged != header.encoded
    with pytest.raises(CommitmentMismatch, match=r"shard-7, header"):
        parse_header(forged, len(forged), "shard-7").stream_key(second, "shard-7")
    with pytest.raises(CommitmentMismatch, match=r"shard-7, header"):
        header.stream_key(second, "shard-7")
