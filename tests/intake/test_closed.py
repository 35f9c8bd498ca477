"""Workers that see plaintext: no network, no secret of their parent's, no file to write."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.core.isolation import Closing, Isolation, IsolationState
from stoker.intake import closed
from stoker.intake.bounded import Bounded
from stoker.intake.errors import WorkerLost
from stoker.intake.workers import Workers
from stoker.keys.memory import memory_protection
from stoker.keys.secret import SecretKey

OURS: list[SecretKey] = []
"""What the parent holds while a test runs."""


@pytest.fixture(autouse=True)
def parents_secret() -> Iterator[None]:
    OURS.append(SecretKey.adopt(bytearray(b"s" * 32)))
    yield
    OURS.pop().wipe()


@dataclass(frozen=True)
class Settings:
    """What a worker is given, with a secret that is meant for it."""

    key: SecretKey


def start_trying(settings: Settings) -> Callable[[str], list[object]]:
    def tries(place: str) -> list[object]:
        told: list[object] = [bytes(OURS[0].view()) == bytes(32), bytes(settings.key.view()) == b"k" * 32]
        for family, address in (
            (socket.AF_INET, ("192.0.2.1", 9)),
            (socket.AF_INET, ("127.0.0.1", 9)),
            (socket.AF_UNIX, "/run/nothing"),
        ):
            try:
                with socket.socket(family, socket.SOCK_STREAM) as sock:
                    sock.settimeout(2)
                    sock.connect(address)
                told.append("reached")
            except OSError as error:
                told.append(error.strerror)
        try:
            Path(place).write_text("jane.roe@example.org")
            told.append("written")
        except OSError as error:
            told.append(error.strerror)
        return [*told, memory_protection().undumpable, memory_protection().no_core_files]

    return tries


NO_WAY = ["Network is unreachable", "Network is unreachable", "Operation not permitted"]


def test_a_worker_reaches_nothing_holds_no_key_and_writes_nothing(tmp_path: Path) -> None:
    given = Settings(SecretKey.adopt(bytearray(b"k" * 32)))
    with Workers(2, start_trying, given) as workers:
        assert workers.isolation.state is IsolationState.ISOLATED
        for told in workers.map([str(tmp_path / "a"), str(tmp_path / "b")]):
            assert told == [True, True, *NO_WAY, "Permission denied", True, True]
    assert bytes(OURS[0].view()) == b"s" * 32
    assert not list(tmp_path.iterdir())


def test_a_bounded_worker_is_closed_off_as_well(tmp_path: Path) -> None:
    given = Settings(SecretKey.adopt(bytearray(b"k" * 32)))
    with Bounded(1, start_trying, given, limit_s=lambda _: 60.0, memory_bytes=1 << 30) as child:
        told = child.call(str(tmp_path / "a"))
    assert told == [True, True, *NO_WAY, "Permission denied", True, True]


def start_nothing(_: object) -> Callable[[int], int]:
    return lambda value: value


def refuse() -> Callable[..., Isolation]:
    return lambda **_: Isolation(IsolationState.REFUSED, "this machine has none")


def test_where_the_platform_refuses_the_policy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "isolate", refuse())
    with Workers(1, start_nothing, None) as workers:
        assert workers.isolation == Isolation(IsolationState.REFUSED, "this machine has none")
        assert list(workers.map([1])) == [1]
    closed.ask_for_closing(Closing.REQUIRED)
    try:
        with (
            pytest.raises(WorkerLost, match="this machine has none"),
            contextlib.closing(Workers(1, start_nothing, None)),
        ):
            raise AssertionError("a worker began")
    finally:
        closed.ask_for_closing(Closing.WHEN_POSSIBLE)


def test_a_worker_that_finds_a_way_out_ends_before_its_next_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace is said to be there and is not: the first look finds the machine's own network."""
    pretended = Isolation(IsolationState.ISOLATED, "pretended")
    monkeypatch.setattr(closed, "isolate", lambda **_: pretended)
    with Workers(1, start_nothing, None) as workers, pytest.raises(WorkerLost, match="reached"):
        list(workers.map([1]))
