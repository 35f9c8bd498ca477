"""The machine as checks see it: files below a root, commands with a time limit, a clock.

Tests give another root, another search path and a clock of their own; nothing else is replaced.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from stoker.core.clock import Clock
from stoker.core.isolation import Isolation
from stoker.core.node_settings import NodeSettings

T = TypeVar("T")

MAX_FILE_BYTES: Final = 4 << 20
MAX_OUTPUT_BYTES: Final = 1 << 20
_ENDED: Final = os.WEXITED | os.WNOWAIT | os.WNOHANG


class Absent(Exception):
    """What a check wanted to look at is not on this machine; the message says what."""


class Unreadable(Exception):
    """It is there and gives no figure: garbage, an error, silence. The message says what was seen."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command did. `code` is its exit code, or minus the signal that ended it."""

    code: int
    text: str


@dataclass(frozen=True)
class MachineView:
    """Everything that checks read. `root` stands before /proc, /sys and /dev.

    `scratch` is a folder on the disk whose speed is measured. `keys_url` and `store_url` are None where
    nobody said which. `idle` says that no job is to be on the node, as in Slurm's epilog.
    """

    settings: NodeSettings
    clock: Clock
    scratch: Path
    environment: Mapping[str, str]
    root: Path = Path("/")
    keys_url: str | None = None
    store_url: str | None = None
    probe_isolation: Callable[[], Isolation] | None = None
    idle: bool = False
    _shared: dict[str, Shared] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def path(self, absolute: str) -> Path:
        """Where `absolute`, such as /proc/stat, lies for this view."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str:
        """The text of a file, stripped. Raises Absent and Unreadable."""
        return read_text(self.path(absolute))

    def number(self, path: Path) -> int:
        """The one whole number in a file. Raises Absent, Unreadable."""
        text = read_text(path)
        try:
            return int(text)
        except ValueError as error:
            raise Unreadable(f"{path} holds {text[:40]!a}, which is no number") from error

    def command(self, *argv: str, limit_s: float | None = None) -> Output:
        """Run a program of the search path to its end. Raises Absent; Unreadable when it does not end."""
        found = shutil.which(argv[0], path=self.environment.get("PATH", os.defpath))
        if found is None:
            raise Absent(f"{argv[0]} is not installed")
        limit = self.settings.limit_s * 0.9 if limit_s is None else limit_s
        return run_bounded([found, *argv[1:]], self.environment, limit)

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What several checks read, made once; whoever comes later waits for it and meets the same end."""
        with self._lock:
            mine = name not in self._shared
            entry = self._shared.setdefault(name, Shared())
        if mine:
            try:
                entry.value = make()
            except Exception as error:  # noqa: BLE001 - handed to everybody who asked
                entry.error = error
            entry.done.set()
        entry.done.wait()
        if entry.error is not None:
            raise entry.error
        return entry.value  # type: ignore[return-value]


class Shared:
    """A value that is being made, with the error that came instead."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: object = None
        self.error: Exception | None = None


def read_text(path: Path) -> str:
    """The text of a small file. Raises Absent, also for one that this user may not read, and Unreadable."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", "replace").strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Absent(f"there is no {path}") from error
    except PermissionError as error:
        raise Absent(f"{path} may not be read by this user") from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error


def run_bounded(argv: Sequence[str], environment: Mapping[str, str], limit_s: float) -> Output:
    """Run `argv` in a process group of its own, which is gone afterwards, whatever it did.

    What it prints is kept up to MAX_OUTPUT_BYTES and read on beyond that. Raises Unreadable when it has not
    ended after `limit_s`, or cannot be started.
    """
    try:
        process = subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise Unreadable(f"{argv[0]} cannot be started: {error.strerror}") from error
    try:
        return _drained(process, argv[0], time.monotonic() + limit_s, limit_s)
    finally:
        _end(process)


def _drained(process: subprocess.Popen[bytes], name: str, deadline_s: float, limit_s: float) -> Output:
    assert process.stdout is not None
    kept = bytearray()
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not waiting.select(left_s):
                raise Unreadable(f"{name} had not ended after {limit_s:.1f} s")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            kept += piece[: max(0, MAX_OUTPUT_BYTES - len(kept))]
    while (ended := os.waitid(os.P_PID, process.pid, _ENDED)) is None:
        if time.monotonic() > deadline_s:
            raise Unreadable(f"{name} had not ended after {limit_s:.1f} s")
        time.sleep(0.005)
    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return Output(code, kept.decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group while its leader is not reaped, so that its number is still its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    if process.stdout is not None:
        process.stdout.close()
    try:
        process.wait(0.2)
    except subprocess.TimeoutExpired:
        return  # in a call that the kernel does not end; nobody may wait for it
