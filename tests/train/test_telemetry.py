"""What a rank tells: whole lines from every thread, and an end when nobody listens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stoker.core.clock import ManualClock
from stoker.core.events import Event, EventKind, Section, decode_event
from stoker.core.ids import RunId
from stoker.train.checkpoint_errors import Fenced, TelemetryLost
from stoker.train.telemetry import Telemetry

RUN = RunId("r-00000000000000000001")


@contextmanager
def channel() -> Iterator[tuple[Telemetry, int, ManualClock]]:
    """Telemetry into a pipe whose reading end is returned; both ends are closed afterwards if still open."""
    reading, writing = os.pipe()
    clock = ManualClock()
    telemetry = Telemetry(writing, run=RUN, attempt=2, rank=1, node="n0", clock=clock, beat_every_s=0.001)
    try:
        yield telemetry, reading, clock
    finally:
        for descriptor in (reading, writing):
            try:
                os.close(descriptor)
            except OSError:
                assert descriptor == reading


def lines(reading: int) -> list[Event]:
    return [decode_event(line, "the pipe") for line in os.read(reading, 1 << 20).splitlines(keepends=True)]


def test_an_event_carries_who_and_when() -> None:
    with channel() as (telemetry, reading, clock):
        clock.advance(5)
        telemetry.emit(EventKind.RANK_STARTED, pid=7)
        (event,) = lines(reading)
    assert (event.run, event.attempt, event.rank, event.node) == (RUN, 2, 1, "n0")
    assert event.kind is EventKind.RANK_STARTED
    assert event.mono_s == 5
    assert event.fields["pid"] == 7


def test_entering_a_section_beats_at_once_and_a_later_beat_says_how_long_nothing_changed() -> None:
    with channel() as (telemetry, reading, clock):
        telemetry.enter(Section.COMPUTE, 12)
        clock.advance(3.5)
        telemetry.beat()
        telemetry.enter(Section.OPTIMIZER)
        events = lines(reading)
    assert [(event.text("section"), event.number("step")) for event in events] == [
        ("compute", 12),
        ("compute", 12),
        ("optimizer", 12),
    ]
    assert [event.number("still_s") for event in events] == [0, 3.5, 0]


def test_the_heart_beats_while_the_main_thread_does_nothing() -> None:
    with channel() as (telemetry, reading, _), telemetry.beating(lambda error: None):
        event = decode_event(os.read(reading, 4096).splitlines(keepends=True)[0], "the pipe")
    assert event.kind is EventKind.HEARTBEAT


def test_lines_of_several_threads_never_mix() -> None:
    with channel() as (telemetry, reading, _):
        received = bytearray()

        def collect() -> None:
            while len(received.splitlines()) < 200 or not received.endswith(b"\n"):
                received.extend(os.read(reading, 4096))

        def talk(pid: int) -> None:
            for _ in range(50):
                telemetry.emit(EventKind.RANK_STARTED, pid=pid, filler="x" * 3000)

        collector = threading.Thread(target=collect)
        talkers = [threading.Thread(target=talk, args=(pid,)) for pid in range(4)]
        for thread in (collector, *talkers):
            thread.start()
        for thread in (collector, *talkers):
            thread.join()
    events = [decode_event(line, "the pipe") for line in received.splitlines(keepends=True)]
    assert sorted(event.number("pid") for event in events) == sorted([0, 1, 2, 3] * 50)


def test_an_error_is_told_with_its_exit_code_and_place() -> None:
    with channel() as (telemetry, reading, _):
        telemetry.enter(Section.CHECKPOINT, 60)
        telemetry.report(Fenced("Attempt 3 has taken over.", hint="End."))
        event = lines(reading)[-1]
    assert event.text("error_id") == "fenced"
    assert event.number("exit_code") == Fenced.exit_code
    assert (event.text("section"), event.number("step")) == ("checkpoint", 60)


def test_nobody_listening_is_an_error_and_the_beating_thread_says_so() -> None:
    lost: list[TelemetryLost] = []
    told = threading.Event()

    def note(error: TelemetryLost) -> None:
        lost.append(error)
        told.set()

    with channel() as (telemetry, reading, _):
        with telemetry.beating(note):
            os.close(reading)
            assert told.wait(30)
        with pytest.raises(TelemetryLost, match="Rank 1"):
            telemetry.emit(EventKind.RANK_STARTED, pid=1)
    assert len(lost) == 1
