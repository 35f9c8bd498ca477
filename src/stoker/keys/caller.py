"""Who asks for keys on one socket: a rank proves that it is the process that was started for it.

Two things must hold before the first key: the kernel's word that the sender is the process whose number the
launcher told (SCM_CREDENTIALS, checked for every message), and a secret of 32 bytes that was handed to that
process once, through a pipe that is empty afterwards. What this proves, and what it does not, is in
docs/design/keys.md, "Who may ask".
"""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Final

from stoker.keys.errors import AgentLost, LeaseRefused
from stoker.keys.secret import KEY_BYTES, SecretKey

SECRET_FD_NAME: Final = "STOKER_SECRET_FD"  # noqa: S105 - the name of a variable
"""The variable that tells a rank the number of the pipe its secret is in."""

KNOWN_WITHIN_S: Final = 60.0
"""How long a rank that asks waits at most until the launcher has told its number."""

_UCRED: Final = struct.Struct("3i")
CREDENTIALS_BYTES: Final = _UCRED.size
HAS_CREDENTIALS: Final = hasattr(socket, "SCM_CREDENTIALS") and hasattr(socket, "SO_PASSCRED")


@dataclass(frozen=True, slots=True)
class Sender:
    """The process that wrote a message, as the kernel says: its number and its user."""

    pid: int
    uid: int

    @classmethod
    def unpack(cls, data: bytes) -> Sender:
        pid, uid, _ = _UCRED.unpack(data)
        return cls(pid, uid)


class Caller:
    """The one process that may ask for keys on one socket."""

    def __init__(self) -> None:
        """A caller whose process is not started yet: `is_process` tells its number later."""
        self._secret = SecretKey.generate()
        self._pid = 0
        self._uid = os.geteuid()
        self._known = threading.Event()

    @classmethod
    def this_process(cls) -> Caller:
        """A caller in this very process: for programs that serve themselves, and for tests."""
        caller = cls()
        caller.is_process(os.getpid())
        return caller

    def is_process(self, pid: int) -> None:
        """The process was started under this number. Only the first word counts."""
        if not self._known.is_set():
            self._pid = pid
            self._known.set()

    def forget(self) -> None:
        """Nobody is this caller any more."""
        self.is_process(0)
        self._secret.wipe()

    def hand_over(self) -> int:
        """The reading end of a pipe that holds the secret, for the process to inherit; reading empties it."""
        reading, writing = os.pipe()
        with contextlib.closing(_Descriptor(writing)):
            os.write(writing, self._secret.view())
        return reading

    def copy_secret(self) -> SecretKey:
        """The secret, for a caller in this very process."""
        return SecretKey.adopt(bytearray(self._secret.view()))

    def require(self, sender: Sender | None, secret: memoryview | None = None) -> None:
        """Raises LeaseRefused unless `sender` is the process, and `secret`, where given, is its secret.

        `sender` is None where the kernel tells no senders; then the secret alone decides.
        """
        if self._secret.wiped or not self._known.wait(KNOWN_WITHIN_S) or self._pid <= 0:
            raise _stranger("before it was known which process that is")
        if sender is None and HAS_CREDENTIALS:
            raise _stranger("without the kernel's word who it is")
        if sender is not None and (sender.pid, sender.uid) != (self._pid, self._uid):
            raise _stranger("from another process than the one that was started for it")
        if secret is not None and not hmac.compare_digest(secret, self._secret.view()):
            raise _stranger("without the secret that was handed to it")


class _Descriptor:
    def __init__(self, number: int) -> None:
        self._number = number

    def close(self) -> None:
        os.close(self._number)


def _stranger(how: str) -> LeaseRefused:
    return LeaseRefused(
        f"A key was asked for on a rank's socket {how}.",
        hint="Keys go to the ranks that a supervisor started, and to nobody else.",
    )


def take_secret(descriptor: int) -> SecretKey:
    """The secret out of an inherited pipe, which is closed. Raises AgentLost when it is not there."""
    secret = SecretKey()
    try:
        with open(descriptor, "rb", buffering=0) as pipe:
            if pipe.readinto(secret.writable_view()) == KEY_BYTES:
                return secret
    except OSError as error:
        secret.wipe()
        raise AgentLost("The secret that proves who this process is cannot be read.") from error
    secret.wipe()
    raise AgentLost(
        "The secret that proves who this process is was taken already.",
        hint="Ranks are started by a supervisor, each once.",
    )


def key_sockets() -> tuple[socket.socket, socket.socket]:
    """The key agent's end and the rank's: what is written at the rank's end says who wrote it."""
    ours, theirs = socket.socketpair()
    if HAS_CREDENTIALS:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs
