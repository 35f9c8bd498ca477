"""The key agent: holds the lease of a run and hands partition keys to its ranks. See docs/design/keys.md.

Ranks never speak to key management: each has one end of an inherited socket pair, and the agent serves the
other end in a thread of its own. Every single key is checked against the lease.
"""

from __future__ import annotations

import enum
import socket
import threading
from dataclasses import replace

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.keys.agent_protocol import (
    Request,
    check_socket,
    decode_request,
    encode_error,
    encode_key,
    receive_body,
    send_body,
)
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import AgentLost, LeaseRefused
from stoker.keys.lease import Lease, Use
from stoker.keys.partition import BackendKeySource


class Ending(enum.StrEnum):
    """Why a connection is over."""

    CLOSED = "closed"
    """The rank closed it or died, or the agent was closed."""

    MALFORMED = "malformed"
    """The rank sent something that is no request."""


class KeyAgent:
    """Serves any number of ranks under one lease."""

    def __init__(self, backend: KeyBackend, lease: Lease, clock: Clock) -> None:
        self._keys = BackendKeySource(backend)
        self._lease = lease
        self._clock = clock
        self._revoked = False
        self._closed = False
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()

    @property
    def lease(self) -> Lease:
        """The lease as it stands, with its latest expiry."""
        return self._lease

    def renew(self, expires_s: float) -> Lease:
        """Let the lease end at `expires_s` instead. Raises LeaseRefused once it was revoked."""
        with self._guard:
            if self._revoked:
                raise self._revocation()
            self._lease = replace(self._lease, expires_s=expires_s)
            return self._lease

    def revoke(self) -> None:
        """End the lease for good: no further key is handed out; those handed out are not taken back."""
        with self._guard:
            self._revoked = True

    def close(self) -> None:
        """Revoke the lease and close every connection, so that all `serve` calls return."""
        with self._guard:
            self._revoked = self._closed = True
            for connection in self._connections:
                _shut_down(connection)

    def serve(self, sock: socket.socket) -> Ending:
        """Answer one rank's requests until either side closes; `sock` is closed then.

        Raises AgentLost when `sock` is not a local stream socket. A malformed message ends this connection
        and no other.
        """
        with sock:
            check_socket(sock)
            with self._guard:
                if self._closed:
                    return Ending.CLOSED
                self._connections.add(sock)
            try:
                return self._answer_all(sock)
            finally:
                with self._guard:
                    self._connections.discard(sock)

    def _answer_all(self, sock: socket.socket) -> Ending:
        while True:
            try:
                body = receive_body(sock)
                if body is None:
                    return Ending.CLOSED
                request = decode_request(memoryview(body))
            except AgentLost:
                return Ending.MALFORMED
            except OSError:
                return Ending.CLOSED
            answer = self._answer(request)
            try:
                send_body(sock, answer)
            except OSError:
                return Ending.CLOSED

    def _answer(self, request: Request) -> bytearray:
        try:
            self._require(request)
            if request.use is Use.SEAL:
                key, wrapped = self._keys.new_partition_key(request.kek, request.purpose)
            else:
                key = self._keys.open_partition_key(request.kek, request.wrapped, request.purpose)
                wrapped = b""
        except StokerError as error:
            return encode_error(error)
        with key:
            return encode_key(key, wrapped)

    def _require(self, request: Request) -> None:
        with self._guard:
            if self._revoked:
                raise self._revocation()
            self._lease.require(request.use, request.kek, self._clock.now_s())

    def _revocation(self) -> LeaseRefused:
        return LeaseRefused(
            f"Lease {self._lease.id} of {self._lease.holder} was revoked.",
            hint="Start the run again once it may go on.",
        )


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the rank has already gone
