"""Records through JSON: equal again, and nothing that Stoker does not write is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.train.checkpoint_errors import BadCommitLog
from stoker.train.commit_record import (
    MAX_SEQUENCE,
    Commit,
    Fence,
    Kept,
    Part,
    Record,
    decode_record,
    encode_record,
)

HEX64 = st.text("0123456789abcdef", min_size=64, max_size=64)
HEX32 = st.text("0123456789abcdef", min_size=32, max_size=32)
SEQUENCES = st.integers(0, MAX_SEQUENCE)
COUNTS = st.integers(0, (1 << 63) - 1)
KEYS = st.from_regex(r"runs/r-[0-9a-f]{4}/[a-z0-9_-][a-z0-9._-]{0,20}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=3)
FENCES = st.builds(Fence, st.text(), SEQUENCES, HEX64, COUNTS, HEX32, st.none() | SEQUENCES)
COMMITS = st.builds(
    Commit,
    run=st.text(),
    sequence=SEQUENCES,
    previous=HEX64,
    attempt=COUNTS,
    token=HEX32,
    step=COUNTS,
    prefix=KEYS,
    version=HEX32,
    parts=st.lists(st.builds(Part, KEYS, HEX64, COUNTS, COUNTS), max_size=3).map(tuple),
    kept=st.lists(st.builds(Kept, SEQUENCES, COUNTS, KEYS), max_size=3).map(tuple),
    metadata=OBJECTS,
    extra=OBJECTS,
)


@given(FENCES | COMMITS)
@settings(max_examples=100, deadline=None)
def test_a_record_survives_json(record: Record) -> None:
    assert decode_record(encode_record(record), "a record") == record


def fence(**changes: Any) -> bytes:
    body = json.loads(encode_record(Fence("r-1", 3, "0" * 64, 2, "a" * 32, None)))
    body.update(changes)
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


BAD: list[tuple[bytes, str]] = [
    (b"", "is not JSON"),
    (b"[1]", "expected a JSON object"),
    (b'{"format":1,"format":1}', "stands there twice"),
    (b'{"format":NaN}', "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (fence(format=3), "has format 3; this Stoker reads 1 and 2"),
    (fence(kind="other"), "unknown kind 'other'"),
    (fence(kind="checkpoint"), "field 'step' is missing"),
    (fence(more=1), "unknown field 'more'"),
    (fence(token=...), "field 'token' is missing"),
    (fence(attempt=-1), "attempt is -1"),
    (fence(attempt=True), "attempt is True"),
    (fence(attempt=1.0), r"attempt is 1\.0"),
    (fence(sequence=MAX_SEQUENCE + 1), "sequence is 100000000"),
    (fence(previous="0" * 63), "not of its form"),
    (fence(token="A" * 32), "not of its form"),
    (fence(run=1), "run is 1, expected text"),
    (fence(resume="1"), "resume is '1'"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_a_malformed_record_is_refused_and_named(data: bytes, message: str) -> None:
    with pytest.raises(BadCommitLog, match=message) as caught:
        decode_record(data, "record 9")
    assert "record 9" in caught.value.message


def test_a_record_of_format_1_is_read_whose_parts_had_one_more_digest() -> None:
    part = Part("runs/a/part-00000.stk", "ab" * 32, 20, 10)
    good = Commit("r-1", 0, "0" * 64, 1, "a" * 32, 1, "runs/a", "b" * 32, (part,), (), {}, {})
    body = json.loads(encode_record(good))
    body["format"] = 1
    with pytest.raises(BadCommitLog, match="field 'digest' is missing"):
        decode_record(json.dumps(body).encode(), "record 0")
    body["parts"][0]["digest"] = "cd" * 32
    assert decode_record(json.dumps(body).encode(), "record 0") == good
    body["format"] = 2
    with pytest.raises(BadCommitLog, match="unknown field 'digest'"):
        decode_record(json.dumps(body).encode(), "record 0")


def test_a_prefix_or_part_that_is_no_plain_name_is_refused() -> None:
    good = Commit("r-1", 0, "0" * 64, 1, "a" * 32, 1, "runs/a", "b" * 32, (), (), {}, {})
    for wrong in ("../up", "/etc/passwd", "runs//a", ""):
        body = json.loads(encode_record(good))
        body["prefix"] = wrong
        with pytest.raises(BadCommitLog, match="prefix"):
            decode_record(json.dumps(body).encode(), "record 0")
