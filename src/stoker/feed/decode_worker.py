"""The processes that decode: workers, and the nursery that forks them. See docs/design/feed.md, "Decoding".

The nursery is forked once, when a pool is made, before the feed has opened a key or a chunk. Workers are
forked from it, then and whenever one has died: so none of them holds what the rank has opened since, and no
process with threads is ever forked in the middle of its work. Workers have no file but their socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from stoker.feed.media import Decoder, MediaFault
from stoker.feed.record_batch import Fault
from stoker.keys.memory import harden_process

MAX_ITEMS: Final = 16
"""The most files in one task."""

TASK: Final = struct.Struct("<II")
"""A task's number and how many items follow; a worker answers with the number alone."""
ITEM: Final = struct.Struct("<IQQ")
"""A decoder's place among the pool's, and where on the desk the file begins and how long it is."""
RESULT: Final = struct.Struct("<IIQ")
"""State, fault and length of an item, on the desk while the worker goes along."""
NUMBER: Final = struct.Struct("<I")

UNTOUCHED: Final = 0
UNDER_WAY: Final = 1
DONE: Final = 2

FAULTS: Final = (None, Fault.UNDECODABLE, Fault.TOO_LARGE, Fault.MEMORY)
"""What a worker may answer, by number."""

FORK: Final = b"F"
REAP: Final = b"R"
ORDER: Final = struct.Struct("<cI")
ANSWER: Final = struct.Struct("<i")

_MAX_MESSAGE: Final = 4096
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class DeskPlan:
    """Where things lie in the memory that the pool and one worker share."""

    input_bytes: int
    out_bytes: int
    slots: int

    @property
    def results(self) -> int:
        """Where the results begin; the files begin at 0."""
        return -(-self.input_bytes // 64) * 64

    def out(self, slot: int) -> int:
        """Where the array of an item begins."""
        return self.results + MAX_ITEMS * RESULT.size + slot * (-(-self.out_bytes // 64) * 64)

    @property
    def size(self) -> int:
        """How large the desk is."""
        return self.out(self.slots)


def run_nursery(
    control: socket.socket,
    desks: Sequence[mmap.mmap],
    plan: DeskPlan,
    decoders: Sequence[Decoder],
    memory_bytes: int,
) -> NoReturn:
    """The nursery's whole life: forks and buries workers as it is told, until the pool is gone."""
    children: set[int] = set()
    try:
        gc.disable()  # what this process inherited is its parent's to close, never to be collected here
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent alone, which then closes
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        control = _only(control)
        harden_process()
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
            if len(message) != ORDER.size:
                break
            order, argument = ORDER.unpack(message)
            if order == FORK:
                child = os.fork()
                if child == 0:
                    _run_worker(descriptors[0], control, desks, argument, plan, decoders, memory_bytes)
                os.close(descriptors[0])
                children.add(child)
                control.send(ANSWER.pack(child))
            elif order == REAP:
                children.discard(argument)
                _, status = os.waitpid(argument, 0)
                control.send(ANSWER.pack(os.waitstatus_to_exitcode(status)))
    except OSError:
        pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        os._exit(0)


def _only(control: socket.socket) -> socket.socket:
    """Close every file of the parent's but this one: keys come over sockets, and stay there."""
    os.dup2(control.fileno(), 3)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are numbers, not paths
        if int(name) > 3:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))
    control = socket.socket(fileno=3)
    control.settimeout(None)
    return control


def _run_worker(
    descriptor: int,
    control: socket.socket,
    desks: Sequence[mmap.mmap],
    place: int,
    plan: DeskPlan,
    decoders: Sequence[Decoder],
    memory_bytes: int,
) -> NoReturn:
    """A worker's whole life: one task after the other, until its pair closes."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        connection = socket.socket(fileno=descriptor)
        connection.settimeout(None)
        control.close()
        for number, desk in enumerate(desks):
            if number != place:
                desk.close()
        gc.freeze()
        gc.enable()
        _limit(memory_bytes)
        while message := connection.recv(_MAX_MESSAGE):
            _work(message, memoryview(desks[place]), plan, decoders)
            connection.send(message[: NUMBER.size])
    except OSError:
        pass
    finally:
        os._exit(0)


def _limit(memory_bytes: int) -> None:
    """No more address space than now and `memory_bytes`; no file of any length."""
    pages = int(_read("/proc/self/statm").split()[0])
    most = pages * mmap.PAGESIZE + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _work(message: bytes, desk: memoryview, plan: DeskPlan, decoders: Sequence[Decoder]) -> None:
    _, count = TASK.unpack_from(message)
    for slot in range(count):
        which, begin, length = ITEM.unpack_from(message, TASK.size + slot * ITEM.size)
        place = plan.results + slot * RESULT.size
        RESULT.pack_into(desk, place, UNDER_WAY, 0, 0)
        fault: Fault | None = None
        found = 0
        decoder, start = decoders[which], plan.out(slot)
        try:
            found = decoder.decode(
                bytes(desk[begin : begin + length]), desk[start : start + decoder.out_bytes]
            )
        except MediaFault as error:
            fault = error.fault
        except MemoryError:
            fault = Fault.MEMORY
        except Exception:  # noqa: BLE001 - the top of a process; what a library says of the file may be personal
            fault = Fault.UNDECODABLE
        RESULT.pack_into(desk, place, DONE, FAULTS.index(fault), found)
