"""A store that is handed to a process without a network: somebody outside asks the real one for it.

Sealed bytes and names cross a local socket, and no credentials. The process sees what its rules name and
nothing else of the store. See docs/design/store.md, "A store that is handed over".
"""

from __future__ import annotations

import itertools
import json
import queue
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from stoker.core.errors import ERROR_CLASSES, StokerError
from stoker.store.errors import AccessRefused, StoreUnreachable
from stoker.store.objects import ObjectStore, check_key
from stoker.store.ranges import BytesLike

STORE_FD_NAME: Final = "STOKER_STORE_FD_"
"""With a number behind it, from 0: the variables that tell a process its sockets."""

MAX_HEAD_BYTES: Final = 1 << 26
MAX_READ_BYTES: Final = 1 << 30
MAX_OBJECT_BYTES: Final = 5 << 30
"""As much as the largest stores take in one put."""
MAX_RANGES: Final = 1 << 16

_LENGTHS: Final = struct.Struct(">IQ")


@dataclass(frozen=True, slots=True)
class HandRules:
    """The folders of the store that may be read, and those that may be written to; these are read as well."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def require(self, key: str, *, writing: bool = False) -> str:
        """`key` when the rules let it be used so. Raises AccessRefused, BadObjectKey."""
        check_key(key)
        folders = self.writes if writing else (*self.reads, *self.writes)
        if any(key == folder or key.startswith(f"{folder}/") for folder in folders):
            return key
        use = "written" if writing else "read"
        raise AccessRefused(
            f"{key[:200]!a} may not be {use} by a process that a store is handed to.",
            hint="It may use the datasets of its run and what the run keeps.",
        )


class StoreHand:
    """The end outside: serves one store to whoever holds the other ends of some sockets."""

    def __init__(self, store: ObjectStore, rules: HandRules) -> None:
        self._store = store
        self._rules = rules
        self._deeds: Mapping[str, Callable[[dict[str, Any], bytearray], tuple[Any, Sequence[BytesLike]]]] = {
            "place": lambda head, body: (store.place, ()),
            "size": lambda head, body: (store.size(rules.require(head["key"])), ()),
            "read": self._read,
            "create": self._create,
            "list": lambda head, body: (list(store.list(rules.require(head["key"]))), ()),
            "delete": self._delete,
            "delete_prefix": lambda head, body: (
                store.delete_prefix(rules.require(head["key"], writing=True)),
                (),
            ),
        }

    def serve(self, sock: socket.socket) -> None:
        """Answer until the other end closes or breaks the protocol; then the socket is closed."""
        with sock:
            try:
                while True:
                    head, body = _receive(sock, MAX_OBJECT_BYTES)
                    _send(sock, *self._answer(head, body))
            except (OSError, ValueError, KeyError, TypeError):
                return

    def _answer(self, head: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], Sequence[BytesLike]]:
        try:
            value, pieces = self._deeds[head["deed"]](head, body)
        except StokerError as error:
            return {"error": error.exit_code, "message": error.message, "hint": error.hint}, ()
        return {"value": value}, pieces

    def _read(self, head: dict[str, Any], body: bytearray) -> tuple[Any, Sequence[BytesLike]]:
        key = self._rules.require(head["key"])
        ranges = [(int(start), int(length)) for start, length in head["ranges"]]
        if len(ranges) > MAX_RANGES or sum(length for _, length in ranges) > MAX_READ_BYTES:
            raise ValueError("too much at once")
        return None, self._store.get_ranges(key, ranges)

    def _delete(self, head: dict[str, Any], body: bytearray) -> tuple[Any, Sequence[BytesLike]]:
        self._store.delete(self._rules.require(head["key"], writing=True))
        return None, ()

    def _create(self, head: dict[str, Any], body: bytearray) -> tuple[Any, Sequence[BytesLike]]:
        self._store.create(self._rules.require(head["key"], writing=True), body)
        return None, ()


def handed_store(environment: Mapping[str, str]) -> ObjectStore | None:
    """The store that was handed to this process over inherited sockets; None when none was."""
    sockets = []
    for number in itertools.count():
        given = environment.get(f"{STORE_FD_NAME}{number}", "")
        if not given.isdecimal():
            break
        sockets.append(socket.socket(fileno=int(given)))
        sockets[-1].set_inheritable(False)
    return ObjectStore(HandedStore(sockets)) if sockets else None


class HandedStore:
    """The end inside, as a back end of an ObjectStore. Threads share its sockets, one request on each."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        """Takes over the sockets. Raises StoreUnreachable when nobody answers."""
        self._idle: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        for sock in sockets:
            self._idle.put(sock)
        self.place: Final = str(self._ask({"deed": "place"})[0])

    def create(self, key: str, data: BytesLike) -> None:
        self._ask({"deed": "create", "key": key}, data)

    def size(self, key: str) -> int:
        return int(self._ask({"deed": "size", "key": key})[0])

    def read(self, key: str, start: int, length: int) -> memoryview:
        return self.read_many(key, [(start, length)])[0]

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        _, body = self._ask({"deed": "read", "key": key, "ranges": [list(each) for each in ranges]})
        view, pieces, place = memoryview(body), [], 0
        for _, length in ranges:
            pieces.append(view[place : place + length])
            place += length
        if place != len(body):
            raise StoreUnreachable(f"{key} came with {len(body)} bytes where {place} were asked for.")
        return pieces

    def list(self, prefix: str) -> Iterator[str]:
        return iter(self._ask({"deed": "list", "key": prefix})[0])

    def delete(self, key: str) -> None:
        self._ask({"deed": "delete", "key": key})

    def delete_prefix(self, prefix: str) -> int:
        return int(self._ask({"deed": "delete_prefix", "key": prefix})[0])

    def _ask(self, head: dict[str, Any], data: BytesLike = b"") -> tuple[Any, bytearray]:
        with self._socket() as sock:
            try:
                _send(sock, head, [data])
                told, body = _receive(sock, MAX_READ_BYTES)
            except (OSError, ValueError) as error:
                sock.close()
                raise StoreUnreachable(
                    "Who handed the store to this process does not answer any more.",
                    hint="The supervisor has ended or broken off. It starts the run again.",
                ) from error
        if "error" in told:
            kind = ERROR_CLASSES.get(told["error"], StoreUnreachable)
            raise kind(str(told["message"]), hint=str(told["hint"]))
        return told["value"], body

    @contextmanager
    def _socket(self) -> Iterator[socket.socket]:
        sock = self._idle.get()
        try:
            yield sock
        finally:
            self._idle.put(sock)


def _send(sock: socket.socket, head: dict[str, Any], pieces: Sequence[BytesLike]) -> None:
    encoded = json.dumps(head).encode()
    views = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
    sock.sendall(_LENGTHS.pack(len(encoded), sum(view.nbytes for view in views)) + encoded)
    for view in views:
        sock.sendall(view)


def _receive(sock: socket.socket, most: int) -> tuple[dict[str, Any], bytearray]:
    """A head and a body of at most `most` bytes. Raises ValueError, and OSError at the end."""
    head_bytes, body_bytes = _LENGTHS.unpack(_exactly(sock, _LENGTHS.size))
    if head_bytes > MAX_HEAD_BYTES or body_bytes > most:
        raise ValueError("a message that is too long")
    head = json.loads(_exactly(sock, head_bytes))
    if not isinstance(head, dict):
        raise ValueError("a message that is none")
    return head, _exactly(sock, body_bytes)


def _exactly(sock: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = sock.recv_into(view[done:])
        if not count:
            raise ConnectionError("the other end has closed")
        done += count
    return data
