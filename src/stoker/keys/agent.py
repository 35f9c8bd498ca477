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
    decode_hello,
    decode_request,
    encode_error,
    encode_key,
    encode_welcome,
    receive_from,
    send_body,
)
from stoker.keys.backend import KeyBackend
from stoker.keys.caller import Caller, Sender
from stoker.keys.errors import AgentLost, LeaseRefused
from stoker.keys.lease import Lease, Use
from stoker.keys.lease_page import LeaseEnd, LeaseSign
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey


class Ending(enum.StrEnum):
    """Why a connection is over."""

    CLOSED = "closed"
    """The rank closed it or died, or the agent was closed."""

    MALFORMED = "malformed"
    """The rank sent something that is no request."""

    STRANGER = "stranger"
    """Who asked is not the process that the socket was made for."""


class KeyAgent:
    """Serves any number of ranks under one lease."""

    def __init__(
        self, backend: KeyBackend, lease: Lease, clock: Clock, *, rendezvous: SecretKey | None = None
    ) -> None:
        """`rendezvous`, which is taken over: the secret of ranks that other agents serve, too."""
        self._keys = BackendKeySource(backend)
        self._lease = lease
        self._clock = clock
        self._revoked: LeaseEnd | None = None
        self._closed = False
        self._page: LeaseSign | None = None
        self._rendezvous = rendezvous or SecretKey.generate()
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        self.answers = 0
        """Requests that were answered, refusals too."""
        self.strangers = 0
        """Connections that were closed because somebody else asked."""

    @property
    def lease(self) -> Lease:
        """The lease as it stands, with its latest expiry."""
        return self._lease

    @property
    def revoked(self) -> bool:
        """Whether the lease was ended for good, so that it cannot be renewed."""
        return self._revoked is not None

    def share_rendezvous(self) -> tuple[KekRef, bytes]:
        """The ranks' secret from now on, wrapped under a KEK that the lease may seal under.

        For agents on other nodes, which open it with `shared_rendezvous`. Raises what `wrap` raises.
        """
        with self._guard:
            kek = max(self._lease.may_seal)
            secret, wrapped = self._keys.new_partition_key(kek, Purpose.CHECKPOINT)
            self._rendezvous.wipe()
            self._rendezvous = secret
            return kek, wrapped

    def show_on(self, page: LeaseSign) -> None:
        """From now on `page`, which stays the caller's, shows the ranks until when the lease is good."""
        with self._guard:
            self._page = page
            self._show()

    def renew(self, expires_s: float) -> Lease:
        """Let the lease end at `expires_s` instead. Raises LeaseRefused once it was revoked."""
        with self._guard:
            if self._revoked is not None:
                raise self._revocation()
            self._lease = replace(self._lease, expires_s=expires_s)
            self._show()
            return self._lease

    def revoke(self, why: LeaseEnd = LeaseEnd.REVOKED) -> None:
        """End the lease for good: no further key is handed out, and no further chunk is opened."""
        with self._guard:
            self._revoke(why)

    def close(self) -> None:
        """Revoke the lease and close every connection, so that all `serve` calls return."""
        with self._guard:
            self._revoke(LeaseEnd.REVOKED)
            self._closed = True
            for connection in self._connections:
                _shut_down(connection)
            self._rendezvous.wipe()

    def _show(self) -> None:
        if self._page is not None:
            self._page.show(self._lease.expires_s - self._clock.now_s())
            if self._revoked is not None:
                self._page.end(self._revoked)

    def _revoke(self, why: LeaseEnd) -> None:
        self._revoked = self._revoked or why
        if self._page is not None:
            self._page.end(self._revoked)

    def serve(self, sock: socket.socket, caller: Caller) -> Ending:
        """Answer `caller`'s requests until either side closes; `sock` is closed then.

        Raises AgentLost when `sock` is not a local stream socket. A malformed message, or one that somebody
        else wrote, ends this connection and no other.
        """
        with sock:
            check_socket(sock)
            with self._guard:
                if self._closed:
                    return Ending.CLOSED
                self._connections.add(sock)
            try:
                return self._answer_all(sock, caller)
            finally:
                with self._guard:
                    self._connections.discard(sock)

    def _answer_all(self, sock: socket.socket, caller: Caller) -> Ending:
        introduced = False
        while True:
            try:
                message = receive_from(sock)
                if message is None:
                    return Ending.CLOSED
                body, sender = message
                if introduced:
                    caller.require(sender)
                    answer = self._answer(decode_request(memoryview(body)))
                else:
                    answer = self._welcome(body, sender, caller)
                    introduced = True
            except AgentLost:
                return Ending.MALFORMED
            except LeaseRefused as stranger:
                self.strangers += 1
                _say(sock, encode_error(stranger))
                return Ending.STRANGER
            except OSError:
                return Ending.CLOSED
            if not _say(sock, answer):
                return Ending.CLOSED

    def _welcome(self, body: bytearray, sender: Sender | None, caller: Caller) -> bytearray:
        """Raises AgentLost or LeaseRefused unless `body` proves that `caller` wrote it."""
        try:
            caller.require(sender, decode_hello(memoryview(body)))
        finally:
            body[:] = bytes(len(body))
        with self._guard:
            if self._rendezvous.wiped:
                raise AgentLost("The key agent is closed.")
            return encode_welcome(self._rendezvous)

    def _answer(self, request: Request) -> bytearray:
        self.answers += 1
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
            if self._revoked is not None:
                raise self._revocation()
            self._lease.require(request.use, request.kek, self._clock.now_s())

    def _revocation(self) -> LeaseRefused:
        return LeaseRefused(
            f"Lease {self._lease.id} of {self._lease.holder} was revoked.",
            hint="Start the run again once it may go on.",
        )


def shared_rendezvous(backend: KeyBackend, kek: KekRef, wrapped: bytes) -> SecretKey:
    """The secret that another agent shared. Raises what `unwrap` raises."""
    return BackendKeySource(backend).open_partition_key(kek, wrapped, Purpose.CHECKPOINT)


def _say(sock: socket.socket, answer: bytearray) -> bool:
    """Whether the answer could be sent; it is overwritten either way."""
    try:
        send_body(sock, answer)
    except OSError:
        return False
    return True


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the rank has already gone
