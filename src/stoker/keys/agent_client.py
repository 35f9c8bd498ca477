"""A rank's end of the key agent's socket, as a KeySource. See docs/design/keys.md, "The agent"."""

from __future__ import annotations

import socket
import threading
from typing import Final

from stoker.keys.agent_protocol import (
    MAX_WRAPPED_BYTES,
    Request,
    check_socket,
    decode_answer,
    decode_welcome,
    encode_hello,
    encode_request,
    receive_body,
    send_body,
)
from stoker.keys.caller import Caller
from stoker.keys.errors import AgentLost, WrongContext
from stoker.keys.lease import Use
from stoker.keys.lease_page import LeaseView
from stoker.keys.partition import require_nothing
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey

_LOST_HINT = "The supervisor has ended or closed the run's key agent; its events say why."


class AgentKeySource:
    """Partition keys over an inherited socket; threads may share it. A timeout set on the socket is kept.

    While a lease that `lease` shows is not good, no key is asked for: a refusal costs the agent nothing.
    """

    def __init__(self, sock: socket.socket, secret: SecretKey, lease: LeaseView | None = None) -> None:
        """Takes over `sock` and `secret`, and says with the first question who this process is.

        Raises AgentLost unless `sock` is a local stream socket.
        """
        check_socket(sock)
        self._sock = sock
        self._secret = secret
        self.require_lease: Final = require_nothing if lease is None else lease.require
        """Raises LeaseExpired or LeaseRefused unless the lease is good now. No call of the kernel."""
        self._rendezvous: SecretKey | None = None
        self._guard = threading.Lock()

    @classmethod
    def of(cls, sock: socket.socket, caller: Caller) -> AgentKeySource:
        """For a caller in this very process."""
        return cls(sock, caller.copy_secret())

    def rendezvous_secret(self) -> SecretKey:
        """What the ranks of this attempt share and nobody else knows; the caller wipes it."""
        with self._guard:
            return SecretKey.adopt(bytearray(self._introduced().view()))

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        """Raises the agent's errors as their own classes, and AgentLost when it is gone."""
        key, wrapped = self._ask(Request(Use.SEAL, kek, purpose))
        if not wrapped:
            key.wipe()
            raise AgentLost("The key agent sent a new key without its wrapped form.")
        return key, wrapped

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        """Raises the agent's errors as their own classes, and AgentLost when it is gone."""
        if len(wrapped) > MAX_WRAPPED_BYTES:
            raise WrongContext(
                f"The wrapped key of KEK {kek} has {len(wrapped)} bytes; at most {MAX_WRAPPED_BYTES} fit.",
                hint="It is no wrapped key. Restore it from a copy you trust.",
            )
        key, _ = self._ask(Request(Use.OPEN, kek, purpose, wrapped))
        return key

    def close(self) -> None:
        """Close the socket, which the agent notices, and wipe what proves who this process is."""
        self._sock.close()
        self._secret.wipe()
        if self._rendezvous is not None:
            self._rendezvous.wipe()

    def _ask(self, request: Request) -> tuple[SecretKey, bytes]:
        self.require_lease()
        body = encode_request(request)
        with self._guard:
            self._introduced()
            answer = self._exchange(body)
        try:
            return decode_answer(memoryview(answer))
        finally:
            answer[:] = bytes(len(answer))

    def _introduced(self) -> SecretKey:
        """What the agent told when it heard who this process is; asked once."""
        if self._rendezvous is None:
            answer = self._exchange(encode_hello(self._secret))
            try:
                self._rendezvous = decode_welcome(memoryview(answer))
            finally:
                answer[:] = bytes(len(answer))
        return self._rendezvous

    def _exchange(self, body: bytearray) -> bytearray:
        try:
            send_body(self._sock, body)
            answer = receive_body(self._sock)
        except OSError as error:
            self._sock.close()
            raise AgentLost("The key agent does not answer.", hint=_LOST_HINT) from error
        except BaseException:
            self._sock.close()  # an answer that was not read to its end must not meet the next request
            raise
        if answer is None:
            self._sock.close()
            raise AgentLost("The key agent has closed the connection.", hint=_LOST_HINT)
        return answer
