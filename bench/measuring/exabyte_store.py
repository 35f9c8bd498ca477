"""A dataset of any size that is stored nowhere: its pages and chunks are made when they are asked for.

Everything that is read is real and is checked by the code that checks every dataset: pages hash to the page
above and the root is signed; headers commit to their partition key; chunks are AES-GCM. What is never read
has a made-up digest in the page above: hashing 237 GB of pages to open one of them would measure SHA-256.
So the shards to be read are named beforehand, and any other is refused, like a changed one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from stoker.core.signing import Signer
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.store.errors import ObjectMissing
from stoker.store.header import StreamHeader, StreamKind, StreamLabel, build_header
from stoker.store.manifest import shard_key
from stoker.store.pages import (
    ENTRY_BYTES,
    FAN_OUT,
    Page,
    PageShape,
    encode_page,
    page_digest,
    page_key,
)
from stoker.store.payload import PAYLOAD_HEADER_BYTES, TAG_BYTES, ChunkGeometry, PayloadCipher
from stoker.store.ranges import BytesLike, check_range
from stoker.store.shards import SHARD_SCHEMA, plaintext_bytes
from stoker.store.superblock import SampleSchema, Split, Superblock, manifest_root

NAME: Final = "synthetic"
VERSION: Final = "5eed" * 8
PREFIX: Final = f"datasets/{NAME}/{VERSION}"
REVIEW: Final = bytes(32)
_PURPOSE: Final = Purpose.DATASET


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the dataset is: whole shards of 256 chunks of 1 MiB."""

    shards: int
    schema: SampleSchema

    @property
    def samples(self) -> int:
        return self.shards * self.schema.samples_per_shard

    @property
    def chunk_samples(self) -> int:
        return self.schema.samples_per_chunk

    @property
    def shard_chunks(self) -> int:
        return self.schema.chunks_per_shard

    @property
    def object_bytes(self) -> int:
        """About; headers differ by a few bytes."""
        return self.shards * plaintext_bytes(self.schema, self.schema.samples_per_shard)


@dataclass(frozen=True, slots=True)
class Written:
    """What a reader must be told of the dataset, and what the store needs to make the shards it serves."""

    shape: Shape
    root: str
    superblock: bytes
    signature: bytes
    wrapped: Mapping[int, bytes]
    """The wrapped partition key of each page of shards that is read."""
    checks: Mapping[int, tuple[bytes, int]]
    """Of each shard that is read: its header check and its length in bytes."""
    digests: Mapping[tuple[int, int], bytes]
    """Of each page below the top one that is read: its digest, by level and index."""


def write(
    shape: Shape, read_shards: Collection[int], keys: KeySource, kek: KekRef, signer: Signer
) -> Written:
    """The manifest of a dataset of which only `read_shards` will be read."""
    wrapped, checks = {}, {}
    for page in sorted({shard // FAN_OUT for shard in read_shards}):
        key, wrapped[page] = keys.new_partition_key(kek, _PURPOSE)
        with key:
            for shard in (each for each in read_shards if each // FAN_OUT == page):
                header, _ = build_header(
                    _label(shard), shape.schema.chunk_log2, _PURPOSE, kek, wrapped[page], _salt(shard), key
                )
                payload_bytes = _geometry(shape).sealed_bytes(_plain_bytes(shape))
                checks[shard] = header.digest[:16], len(header.encoded) + payload_bytes
    written = Written(shape, "", b"", b"", wrapped, checks, {})
    pages = PageShape(shape.shards, FAN_OUT)
    for level in range(pages.levels - 1):
        indices = {pages.place(shard, level)[0] for shard in read_shards}
        digests = {(level, index): page_digest(page_bytes(written, level, index)) for index in indices}
        written = replace(written, digests={**written.digests, **digests})
    block = Superblock(
        subject=f"dataset/{NAME}",
        version=VERSION,
        kek=str(kek),
        review_digest=REVIEW,
        chunk_log2=shape.schema.chunk_log2,
        schema=shape.schema,
        splits=(Split("train", 0, shape.shards, shape.samples),),
        shards=shape.shards,
        samples=shape.samples,
        object_bytes=shape.object_bytes,
        fan_out=FAN_OUT,
        levels=pages.levels,
    ).encode()
    root = manifest_root(block, page_digest(page_bytes(written, pages.levels - 1, 0)))
    signed = signer.sign(b"stoker manifest signature 1\0" + bytes.fromhex(root))
    signature = struct.pack(">4sBBH32s64s", b"STKS", 1, 1, 0, bytes.fromhex(root), signed)
    return replace(written, root=root, superblock=block, signature=signature)


def page_bytes(written: Written, level: int, index: int) -> bytes:
    """One manifest page: made-up digests, but for what is read."""
    count = PageShape(written.shape.shards, FAN_OUT).count(level, index)
    page = bytearray(_made_up_entries(written.shape, level, count))
    if level == 0:
        for shard in (each for each in written.checks if each // FAN_OUT == index):
            at = shard % FAN_OUT * ENTRY_BYTES
            check, object_bytes = written.checks[shard]
            page[at + 32 : at + 56] = check + object_bytes.to_bytes(8, "big")
    for below, child in written.digests:
        if below == level - 1 and child // FAN_OUT == index:
            at = child % FAN_OUT * ENTRY_BYTES
            page[at : at + 32] = written.digests[below, child]
    return encode_page(Page(level, index, bytes(page)), FAN_OUT)


@lru_cache(maxsize=8)
def _made_up_entries(shape: Shape, level: int, count: int) -> bytes:
    per_entry = FAN_OUT**level
    object_bytes = shape.object_bytes // shape.shards * per_entry
    samples = shape.schema.samples_per_shard * per_entry
    entries = np.random.default_rng(level).integers(0, 256, (count, ENTRY_BYTES), dtype=np.uint8)
    entries[:, 32:48] *= level == 0
    entries[:, 48:56] = np.frombuffer(object_bytes.to_bytes(8, "big"), np.uint8)
    entries[:, 56:] = np.frombuffer(samples.to_bytes(8, "big"), np.uint8)
    return entries.tobytes()


class SyntheticBackend:
    """The object store's back end that serves it. It reads only, and keeps one shard's cipher at a time."""

    def __init__(self, written: Written, keys: KeySource, kek: KekRef) -> None:
        self._written = written
        self._keys = keys
        self._kek = kek
        schema = written.shape.schema
        plain = np.arange(schema.sample_bytes * schema.samples_per_chunk // 2, dtype=np.uint16)
        self._plain = plain.tobytes() + bytes(1 << schema.chunk_log2)
        self._opened = lru_cache(maxsize=512)(self._open)
        self._shards = {shard_key(PREFIX, shard): shard for shard in written.checks}
        self._pages = {page_key(PREFIX, level, index): (level, index) for level, index in written.digests}
        top = PageShape(written.shape.shards, FAN_OUT).levels - 1
        self._pages[page_key(PREFIX, top, 0)] = (top, 0)
        self._made: tuple[str, bytes] = ("", b"")
        self.served_bytes = 0

    @property
    def place(self) -> str:
        return "nowhere"

    def size(self, key: str) -> int:
        if key in self._shards:
            return self._written.checks[self._shards[key]][1]
        return len(self._whole(key))

    def read(self, key: str, start: int, length: int) -> memoryview:
        check_range(key, start, length, self.size(key))
        self.served_bytes += length
        if key not in self._shards:
            return memoryview(self._whole(key))[start : start + length]
        return self._sealed(self._shards[key], start, length)

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return [self.read(key, start, length) for start, length in ranges]

    def create(self, key: str, data: BytesLike) -> None:
        raise NotImplementedError("nothing is stored")

    def list(self, prefix: str) -> Iterator[str]:
        raise NotImplementedError("nothing is stored")

    def delete(self, key: str) -> None:
        raise NotImplementedError("nothing is stored")

    def delete_prefix(self, prefix: str) -> int:
        raise NotImplementedError("nothing is stored")

    def _whole(self, key: str) -> bytes:
        if key == f"{PREFIX}/manifest/superblock.json":
            return self._written.superblock
        if key == f"{PREFIX}/manifest/signature":
            return self._written.signature
        if key in self._pages:
            if self._made[0] != key:  # its size is asked for first, then its bytes
                self._made = key, page_bytes(self._written, *self._pages[key])
            return self._made[1]
        raise ObjectMissing(f"{key} was not named as one that is read.")

    def _open(self, shard: int) -> tuple[StreamHeader, PayloadCipher]:
        wrapped = self._written.wrapped[shard // FAN_OUT]
        chunk_log2 = self._written.shape.schema.chunk_log2
        with self._keys.open_partition_key(self._kek, wrapped, _PURPOSE) as key:
            header, stream_key = build_header(
                _label(shard), chunk_log2, _PURPOSE, self._kek, wrapped, _salt(shard), key
            )
        payload_header = bytes([PAYLOAD_HEADER_BYTES]) + hashlib.sha512(_salt(shard)).digest()[:39]
        return header, PayloadCipher(stream_key, header.digest, payload_header)

    def _sealed(self, shard: int, start: int, length: int) -> memoryview:
        """The range of the sealed object, of which only the chunks that it touches are made."""
        header, cipher = self._opened(shard)
        geometry, begin = _geometry(self._written.shape), len(header.encoded)
        plain_bytes = _plain_bytes(self._written.shape)
        size = begin + geometry.sealed_bytes(plain_bytes)
        first = max(0, (start - begin) // geometry.chunk_bytes)
        last = max(0, (min(start + length, size) - 1 - begin) // geometry.chunk_bytes)
        base = begin + first * geometry.chunk_bytes if first else 0
        made = memoryview(bytearray(min(size, begin + (last + 1) * geometry.chunk_bytes) - base))
        if first == 0:
            made[:begin] = header.encoded
            made[begin : begin + PAYLOAD_HEADER_BYTES] = cipher.header
        for chunk in range(first, last + 1):
            at = begin + geometry.sealed_start(chunk) - base
            plain = geometry.plain_length(chunk, plain_bytes)
            is_last = chunk + 1 == geometry.chunks(plain_bytes)
            source = memoryview(self._plain)[:plain]
            cipher.seal_into(chunk, is_last, source, made[at : at + plain + TAG_BYTES])
        return made[start - base : start - base + length]


def _label(shard: int) -> StreamLabel:
    return StreamLabel(StreamKind.SHARD, f"dataset/{NAME}", VERSION, shard, SHARD_SCHEMA, REVIEW)


def _salt(shard: int) -> bytes:
    return hashlib.sha256(b"synthetic shard" + shard.to_bytes(8, "big")).digest()


def _geometry(shape: Shape) -> ChunkGeometry:
    return ChunkGeometry(1 << shape.schema.chunk_log2)


def _plain_bytes(shape: Shape) -> int:
    return plaintext_bytes(shape.schema, shape.schema.samples_per_shard)
