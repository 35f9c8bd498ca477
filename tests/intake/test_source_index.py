"""The source index: round trips, and no length in it is trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.intake.errors import BrokenRecord
from stoker.intake.source_index import SourceFile, decode_index, encode_index

FILES = st.lists(
    st.builds(
        SourceFile,
        path=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        size_bytes=st.integers(0, 2**64 - 1),
        sha256=st.binary(min_size=32, max_size=32),
        shard=st.integers(0, 2**32 - 1),
        offset=st.integers(0, 2**64 - 1),
    ),
    max_size=5,
)
SAMPLE = encode_index([SourceFile("a/ü.txt", 5, bytes(32), 1, 2), SourceFile("b", 6, bytes(32), 3, 4)])


@given(FILES)
def test_what_is_encoded_is_decoded(files: list[SourceFile]) -> None:
    assert decode_index(encode_index(files), "here") == tuple(files)


def test_the_bytes_are_those_of_the_documented_format() -> None:
    data = encode_index([SourceFile("é", 258, b"\x07" * 32, 9, 4)])
    assert data[:16] == b"STKI\x00\x01\x00\x00" + (1).to_bytes(8, "big")
    entry = (258).to_bytes(8, "big") + (4).to_bytes(8, "big") + (9).to_bytes(4, "big") + b"\x07" * 32
    assert data[16:] == entry + b"\x00\x02\xc3\xa9"


@pytest.mark.parametrize("length", range(len(SAMPLE)))
def test_an_index_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(BrokenRecord, match="here"):
        decode_index(SAMPLE[:length], "here")


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"X"), (5, b"\x02"), (7, b"\x01"), (8, b"\xff" * 8), (14, b"\x00\x03"), (68, b"\xff\xff")],
)
def test_a_changed_field_is_refused_before_anything_is_allocated(offset: int, value: bytes) -> None:
    data = SAMPLE[:offset] + value + SAMPLE[offset + len(value) :]
    with pytest.raises(BrokenRecord, match="at byte"):
        decode_index(data, "here")


def test_bytes_after_the_end_and_a_path_that_is_not_utf8_are_refused() -> None:
    with pytest.raises(BrokenRecord, match="follow"):
        decode_index(SAMPLE + b"\0", "here")
    with pytest.raises(BrokenRecord, match="UTF-8"):
        decode_index(SAMPLE.replace("ü".encode(), b"\xff\xff"), "here")
