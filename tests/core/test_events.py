"""Events: the schema is enforced on both ways, and a file cut by a crash is read as far as it is whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import BadEvent, DiskFull
from stoker.core.events import (
    MAX_LINE_BYTES,
    REQUIRED_FIELDS,
    Event,
    EventKind,
    EventLog,
    decode_event,
    encode_event,
    read_events,
)
from stoker.core.ids import RunId

RUN = RunId("r-00000000000000000000")

_SAMPLES = {int: 3, str: "text", (int, float): 1.5, list: ["file.py:3 function"]}


def an_event(kind: EventKind, ts: float = 5.0, **fields: object) -> Event:
    required = {name: _SAMPLES[expected] for name, expected in REQUIRED_FIELDS[kind].items()}
    return Event(ts, ts, RUN, 1, 0, "local", kind, {**required, **fields})


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_survives_the_round_trip(kind: EventKind) -> None:
    event = an_event(kind, more="allowed")
    assert decode_event(encode_event(event), "here") == event


@pytest.mark.parametrize("kind", list(EventKind))
def test_a_missing_field_is_refused_when_writing_and_when_reading(kind: EventKind) -> None:
    whole = an_event(kind)
    for name in REQUIRED_FIELDS[kind]:
        fields = {key: value for key, value in whole.fields.items() if key != name}
        with pytest.raises(BadEvent, match=name):
            encode_event(Event(5.0, 5.0, RUN, 1, 0, "local", kind, fields))
        body = json.loads(encode_event(whole))
        del body[name]
        with pytest.raises(BadEvent, match=f"line 7.*{name}"):
            decode_event(json.dumps(body).encode(), "line 7")


def test_a_field_may_not_take_a_name_of_the_envelope() -> None:
    with pytest.raises(BadEvent, match="'rank'"):
        encode_event(Event(1.0, 1.0, RUN, 1, 0, "local", EventKind.SAMPLE, {"text": "a", "rank": 4}))


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(BadEvent, match="step"):
        encode_event(an_event(EventKind.CHECKPOINT_STARTED, step=True))


def test_a_loss_that_is_not_a_number_can_be_told() -> None:
    event = decode_event(encode_event(an_event(EventKind.STEP, loss=float("nan"))), "here")
    assert event.number("loss") != event.number("loss")


def test_a_time_that_is_not_finite_is_refused() -> None:
    line = encode_event(an_event(EventKind.SAMPLE)).replace(b'"ts": 5.0', b'"ts": NaN')
    with pytest.raises(BadEvent, match="finite"):
        decode_event(line, "here")


def test_a_line_over_the_limit_is_refused_both_ways() -> None:
    with pytest.raises(BadEvent, match="bytes"):
        encode_event(an_event(EventKind.SAMPLE, text="x" * MAX_LINE_BYTES))
    with pytest.raises(BadEvent, match="here"):
        decode_event(b"{" + b" " * MAX_LINE_BYTES + b"}", "here")


@given(st.binary(max_size=200))
def test_any_bytes_are_either_an_event_or_refused(line: bytes) -> None:
    with pytest.raises(BadEvent, match="here"):
        decode_event(line, "here")


def test_a_file_cut_anywhere_yields_its_whole_lines(tmp_path: Path) -> None:
    events = [an_event(kind, ts=float(number)) for number, kind in enumerate(EventKind)]
    whole = b"".join(encode_event(event) for event in events)
    path = tmp_path / "events.jsonl"
    for length in range(0, len(whole) + 1, 37):
        path.write_bytes(whole[:length])
        found = read_events(path)
        complete = whole[:length].count(b"\n")
        assert found.events == tuple(events[:complete])
        assert found.cut_lines == int(whole[:length] != b"" and not whole[:length].endswith(b"\n"))


def test_appending_after_a_cut_line_loses_no_further_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first, second = an_event(EventKind.SAMPLE, text="one"), an_event(EventKind.SAMPLE, text="two")
    path.write_bytes(encode_event(first)[:-9])
    log = EventLog(path)
    log.append(second)
    log.close()
    found = read_events(path)
    assert (found.events, found.cut_lines) == ((second,), 1)


def test_a_whole_line_that_breaks_the_schema_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(encode_event(an_event(EventKind.SAMPLE)) + b'{"kind": "unheard_of"}\n')
    with pytest.raises(BadEvent, match=r"events\.jsonl, line 2"):
        read_events(path)


def test_the_file_is_only_for_its_owner(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").close()
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_what_was_written_stays_readable(small_disk: Path) -> None:
    log = EventLog(small_disk / "events.jsonl")
    event = an_event(EventKind.SAMPLE, text="x" * 3000)
    written = 0
    with pytest.raises(DiskFull, match="events"):
        while True:
            log.append(event)
            written += 1
    log.close()
    assert 0 < written < 6
    assert read_events(small_disk / "events.jsonl").events == (event,) * written
    assert [path.name for path in small_disk.iterdir()] == ["events.jsonl"]
