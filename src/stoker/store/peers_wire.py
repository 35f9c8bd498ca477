"""What nodes of a run say to each other: handshake, request, answer. See docs/design/store.md, "Peers".

Every length is fixed or capped before anything is read; every read has a deadline. Both sides prove that they
hold the run's secret, and what follows is authenticated under a key of this one connection.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.keys.secret import KEY_BYTES, SecretKey
from stoker.store.errors import BadPeerSecret
from stoker.store.objects import MAX_KEY_BYTES

MAGIC: Final = b"STKN"
VERSION: Final = 1
MOST_OBJECT_BYTES: Final = 1 << 43

_HELLO: Final = struct.Struct(">4sB3x32s")
_CHALLENGE: Final = struct.Struct(">4sB3x32s32s")
_PROOF_BYTES: Final = 32
_REQUEST: Final = struct.Struct(">QH32s")
_ANSWER: Final = struct.Struct(">BQ")
_PART_BYTES: Final = 1 << 18


class Answer(IntEnum):
    """What a node says to a request."""

    FOUND = 1
    """The object follows, as many bytes as the answer says."""
    PENDING = 2
    """It is being brought in; more answers follow."""
    LACKS = 3
    """It cannot be had or kept here."""
    NOT_SERVED = 4
    """Objects of that name are not served."""
    BUSY = 5
    """Too many are served already."""


class Problem(IntEnum):
    """What went wrong with a peer."""

    UNREACHABLE = 1
    SLOW = 2
    BROKE_OFF = 3
    STRANGER = 4
    """It does not hold the run's secret, speaks another version, or no protocol at all."""
    LIED = 5
    """It gave other bytes, or another number of them, than were recorded."""
    DECLINED = 6
    BUSY = 7


class PeerFault(StokerError):
    """Another node of the run is gone, slow, or not what it should be; the store is asked instead."""

    exit_code = 216

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class PeerTimes:
    """How long a node waits for another, in seconds."""

    connect_s: float = 3.0
    handshake_s: float = 5.0
    """For the whole handshake and the request, however many bytes of it have come."""
    silent_s: float = 10.0
    """Between two answers, or for the next part of an object."""
    beat_s: float = 1.0
    """How often a node that is bringing an object in says so."""
    patience_s: float = 30.0
    """For an object, and a second more for each `floor_bytes_s` of it."""
    floor_bytes_s: float = 1e6
    avoid_s: float = 30.0
    """How long a node that was gone or slow is not asked again."""


class Sink(Protocol):
    """Takes the parts of an object, in order."""

    def __call__(self, part: memoryview, offset: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One object that a node asks for, as its manifest records it."""

    key: str
    expected_bytes: int
    digest: bytes


class Wire:
    """One connection. Its methods raise PeerFault, and never OSError."""

    def __init__(self, sock: socket.socket, clock: Clock, until_s: float) -> None:
        """Everything must be done at monotonic time `until_s`, unless `extend` is called."""
        self._sock = sock
        self._clock = clock
        self._until_s = until_s
        self._session = b""
        self._sequence = 0

    def extend(self, until_s: float) -> None:
        """Set the deadline anew."""
        self._until_s = until_s

    def greet(self, secret: SecretKey, run: str) -> None:
        """The handshake of who connects."""
        mine = os.urandom(32)
        self._send(_HELLO.pack(MAGIC, VERSION, mine))
        magic, version, theirs, proof = _CHALLENGE.unpack(self._receive(_CHALLENGE.size))
        _check_version(magic, version)
        both = mine + theirs
        if not hmac.compare_digest(proof, _prove(secret, b"server", run, both)):
            raise PeerFault(Problem.STRANGER, "The node does not hold the run's secret.")
        self._send(_prove(secret, b"client", run, both))
        self._session = _prove(secret, b"session", run, both)

    def welcome(self, secret: SecretKey, run: str) -> None:
        """The handshake of who is connected to."""
        magic, version, theirs = _HELLO.unpack(self._receive(_HELLO.size))
        _check_version(magic, version)
        both = theirs + os.urandom(32)
        self._send(_CHALLENGE.pack(MAGIC, VERSION, both[32:], _prove(secret, b"server", run, both)))
        if not hmac.compare_digest(self._receive(_PROOF_BYTES), _prove(secret, b"client", run, both)):
            raise PeerFault(Problem.STRANGER, "The node does not hold the run's secret.")
        self._session = _prove(secret, b"session", run, both)

    def send_request(self, request: Request) -> None:
        """Ask for an object."""
        name = request.key.encode()
        self._send_sealed(b"request", _REQUEST.pack(request.expected_bytes, len(name), request.digest) + name)

    def receive_request(self) -> Request:
        """What the other side asks for. The name is not checked here."""
        head = self._receive(_REQUEST.size)
        expected_bytes, length, digest = _REQUEST.unpack(head)
        if length > MAX_KEY_BYTES or expected_bytes > MOST_OBJECT_BYTES:
            raise PeerFault(Problem.STRANGER, "A request is longer than requests may be.")
        name = self._receive(length)
        self._check_seal(b"request", head + name)
        return Request(name.decode("ascii", "replace"), expected_bytes, digest)

    def send_answer(self, answer: Answer, size: int = 0) -> None:
        """Answer a request."""
        self._send_sealed(b"answer", _ANSWER.pack(answer, size))

    def receive_answer(self) -> tuple[Answer, int]:
        """The next answer, and how many bytes follow it."""
        body = self._receive(_ANSWER.size)
        self._check_seal(b"answer", body)
        number, size = _ANSWER.unpack(body)
        try:
            return Answer(number), size
        except ValueError:
            raise PeerFault(Problem.STRANGER, f"An answer of the unknown kind {number}.") from None

    def send_part(self, part: memoryview) -> None:
        """Send bytes of an object: not authenticated, since their digest is recorded."""
        self._send(part)

    def receive_object(self, expected_bytes: int, digest: bytes, silent_s: float, sink: Sink) -> None:
        """Hand an object to `sink`; PeerFault LIED when it has another digest. What `sink` raises passes."""
        buffer = memoryview(bytearray(min(_PART_BYTES, expected_bytes)))
        hasher, done = hashlib.sha256(), 0
        while done < expected_bytes:
            part = buffer[: min(len(buffer), expected_bytes - done)]
            self._receive_into(part, silent_s)
            hasher.update(part)
            sink(part, done)
            done += len(part)
        if hasher.digest() != digest:
            raise PeerFault(Problem.LIED, "The node gave other bytes than are recorded.")

    def _send_sealed(self, what: bytes, body: bytes) -> None:
        self._send(body + self._seal(what, body))

    def _check_seal(self, what: bytes, body: bytes) -> None:
        if not hmac.compare_digest(self._receive(_PROOF_BYTES), self._seal(what, body)):
            raise PeerFault(Problem.STRANGER, "A message was changed on its way.")

    def _seal(self, what: bytes, body: bytes) -> bytes:
        self._sequence += 1
        counted = self._sequence.to_bytes(4, "big")
        return hmac.digest(self._session, what + b"\x00" + counted + body, "sha256")

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._sock.settimeout(self._left_s())
            self._sock.sendall(data)
        except TimeoutError:
            raise _too_slow() from None
        except OSError as error:
            raise PeerFault(Problem.BROKE_OFF, f"The node went away: {error}.") from error

    def _receive(self, length: int) -> bytes:
        target = bytearray(length)
        self._receive_into(memoryview(target), self._left_s())
        return bytes(target)

    def _receive_into(self, target: memoryview, silent_s: float) -> None:
        """Fill `target` before the deadline, and within `silent_s` seconds."""
        until_s = min(self._until_s, self._clock.monotonic_s() + silent_s)
        done = 0
        while done < len(target):
            try:
                self._sock.settimeout(self._left_s(until_s))
                count = self._sock.recv_into(target[done:])
            except TimeoutError:
                raise _too_slow() from None
            except OSError as error:
                raise PeerFault(Problem.BROKE_OFF, f"The node went away: {error}.") from error
            if count == 0:
                raise PeerFault(Problem.BROKE_OFF, "The node closed the connection too early.")
            done += count

    def _left_s(self, until_s: float | None = None) -> float:
        left_s = (self._until_s if until_s is None else until_s) - self._clock.monotonic_s()
        if left_s <= 0:
            raise _too_slow()
        return left_s


def read_secret(descriptor: int) -> SecretKey:
    """The run's secret from an inherited pipe or socket, which is closed: 32 bytes and no more.

    Raises BadPeerSecret.
    """
    buffer = bytearray(KEY_BYTES + 1)
    done = 0
    try:
        while done < len(buffer) and (count := os.readv(descriptor, [memoryview(buffer)[done:]])):
            done += count
    except OSError as error:
        raise _bad_secret(f"cannot be read: {error.strerror}") from error
    finally:
        secret = bytearray(memoryview(buffer)[:KEY_BYTES])
        buffer[:] = bytes(len(buffer))
    os.close(descriptor)
    if done != KEY_BYTES:
        secret[:] = bytes(KEY_BYTES)
        raise _bad_secret(f"gave {'more' if done > KEY_BYTES else done} bytes")
    return SecretKey.adopt(secret)


def _bad_secret(what: str) -> BadPeerSecret:
    return BadPeerSecret(
        f"The descriptor of the run's peer secret {what}; {KEY_BYTES} bytes were expected.",
        hint="Who starts the node writes the secret into a pipe, closes it, and lets the node inherit it.",
    )


def _prove(secret: SecretKey, what: bytes, run: str, nonces: bytes) -> bytes:
    """HMAC-SHA256 under the run's secret, bound to what it is for, the run and both sides' nonces."""
    run_digest = hashlib.sha256(run.encode()).digest()
    return hmac.digest(secret.view(), b"stoker peer 1 " + what + b"\x00" + run_digest + nonces, "sha256")


def _check_version(magic: bytes, version: int) -> None:
    if (magic, version) != (MAGIC, VERSION):
        raise PeerFault(Problem.STRANGER, "The node speaks another protocol, or another version of it.")


def _too_slow() -> PeerFault:
    return PeerFault(Problem.SLOW, "The node took too long.")
