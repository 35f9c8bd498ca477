"""Deterministic seals: equal inputs give equal bytes, any other input gives another key."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.keys.refs import Purpose
from stoker.store import repeatable
from stoker.store.errors import BadLabel, CorruptStream, ObjectDiffers
from stoker.store.header import parse_header
from stoker.store.objects import ObjectStore
from stoker.store.payload import PAYLOAD_HEADER_BYTES
from stoker.store.ranges import BytesSource
from stoker.store.reader import StreamReader
from stoker.store.repeatable import RepeatableSeal, create_same
from stoker.store.sealed import MAX_STREAMS_PER_KEY
from support.sealed_samples import KEK, LABEL, MemoryKeys, relabel

PLAIN = b"the furnace burns " * 3000
PURPOSE = Purpose.DATASET


def wrapped_keys(keys: MemoryKeys, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        key, wrapped = keys.new_partition_key(KEK, PURPOSE)
        key.wipe()
        found.append(wrapped)
    return found


def seal(keys: MemoryKeys, wrapped: list[bytes], label=LABEL, plain: bytes = PLAIN, log2: int = 14) -> bytes:
    with RepeatableSeal(keys, KEK, PURPOSE, wrapped) as sealer:
        return bytes(sealer.seal(label, plain, chunk_log2=log2).data)


def drawn(data: bytes) -> tuple[bytes, bytes]:
    """The header's salt and the payload's salt and nonce prefix."""
    header = parse_header(data, len(data), "here")
    start = len(header.encoded)
    return header.salt, data[start + 1 : start + PAYLOAD_HEADER_BYTES]


def test_two_processes_that_seal_the_same_write_the_same_bytes_and_they_open() -> None:
    keys = MemoryKeys()
    wrapped = wrapped_keys(keys, 1)
    first, second = seal(keys, wrapped), seal(keys, wrapped)
    assert first == second
    reader = StreamReader.open(BytesSource(first), keys, LABEL, place="here")
    assert reader.read_all(len(PLAIN)) == PLAIN


def test_any_other_plaintext_label_chunk_size_or_key_draws_other_salts() -> None:
    keys = MemoryKeys()
    wrapped = wrapped_keys(keys, 2)
    flipped = bytes([PLAIN[0] ^ 1]) + PLAIN[1:]
    sealed = [
        seal(keys, wrapped),
        seal(keys, wrapped, plain=flipped),
        seal(keys, wrapped, plain=PLAIN[:-1]),
        seal(keys, wrapped, plain=b""),
        seal(keys, wrapped, relabel(shard=8)),
        seal(keys, wrapped, relabel(schema=2)),
        seal(keys, wrapped, relabel(version="cd" * 16)),
        seal(keys, wrapped, log2=15),
        seal(keys, wrapped[1:]),
    ]
    salts = [drawn(data)[0] for data in sealed]
    payloads = [drawn(data)[1] for data in sealed]
    assert len(set(salts)) == len(set(payloads)) == len(sealed)


def test_the_salts_tell_nothing_of_the_plaintext_without_the_key() -> None:
    """Who guesses the plaintext and knows the label cannot check the guess: another key, other salts."""
    keys, others = MemoryKeys(), MemoryKeys()
    first, second = seal(keys, wrapped_keys(keys, 1)), seal(others, wrapped_keys(others, 1))
    assert not set(drawn(first)) & set(drawn(second))


def test_each_4096_shards_have_the_next_planned_key_and_no_more_than_were_planned() -> None:
    keys = MemoryKeys()
    wrapped = wrapped_keys(keys, 2)
    with RepeatableSeal(keys, KEK, PURPOSE, wrapped, first=1000) as sealer:
        for shard, key in ((1000, 0), (1000 + MAX_STREAMS_PER_KEY - 1, 0), (1000 + MAX_STREAMS_PER_KEY, 1)):
            data = sealer.seal(relabel(shard=shard), b"x").data
            assert parse_header(data, len(data), "here").wrapped_key == wrapped[key]
        for shard in (999, 1000 + 2 * MAX_STREAMS_PER_KEY):
            with pytest.raises(BadLabel, match=f"Shard {shard} lies outside"):
                sealer.seal(relabel(shard=shard), b"x")
    assert keys.opened == 2


def test_a_stream_is_never_larger_than_its_share_of_a_partition_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = MemoryKeys()
    wrapped = wrapped_keys(keys, 1)
    assert repeatable.MAX_REPEATABLE_BYTES == 1 << 38
    monkeypatch.setattr(repeatable, "MAX_REPEATABLE_BYTES", 10)
    with pytest.raises(BadLabel, match="at most 10 bytes, not 11"):
        seal(keys, wrapped, plain=b"x" * 11)


def test_a_changed_byte_does_not_open() -> None:
    keys = MemoryKeys()
    data = bytearray(seal(keys, wrapped_keys(keys, 1)))
    data[-1] ^= 1
    with pytest.raises(CorruptStream, match="here"):
        StreamReader.open(BytesSource(bytes(data)), keys, LABEL, place="here")


@pytest.mark.parametrize("place", ["file", "memory"])
def test_an_object_is_made_once_and_found_by_whoever_makes_the_same(place: str, tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}/store" if place == "file" else "memory:///")
    data = seal(keys := MemoryKeys(), wrapped_keys(keys, 1))
    assert create_same(store, "work/one.stk", data)
    assert not create_same(store, "work/one.stk", data)
    assert store.get("work/one.stk") == data


@pytest.mark.parametrize("other", [b"", b"x" * 99, b"x" * 99 + b"y", b"x" * 101])
def test_other_bytes_under_the_name_are_refused_and_stay(other: bytes, tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}/store")
    store.create("work/one.stk", other)
    with pytest.raises(ObjectDiffers, match=r"work/one\.stk in .* holds other bytes"):
        create_same(store, "work/one.stk", b"x" * 100)
    assert store.get("work/one.stk") == other
