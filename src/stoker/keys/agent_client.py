"""A rank's end of the key agent's socket, as a KeySource. See docs/design/keys.md, "The agent"."""

from __future__ import annotations

import socket
import threading

from stoker.keys.agent_protocol import (
    MAX_WRAPPED_BYTES,
    Request,
    check_socket,
    decode_answer,
    encode_request,
    receive_body,
    send_body,
)
from stoker.keys.errors import AgentLost, WrongContext
from stoker.keys.lease import Use
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey

_LOST_HINT = "The supervisor has ended or closed the run's key agent; its events say why."


class AgentKeySource:
    """Partition keys over an inherited socket; threads may share it. A timeout set on the socket is kept."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over `sock`. Raises AgentLost unless it is a local stream socket."""
        check_socket(sock)
        self._sock = sock
        self._guard = threading.Lock()

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
        """Close the socket; the agent notices."""
        self._sock.close()

    def _ask(self, request: Request) -> tuple[SecretKey, bytes]:
        body = encode_request(request)
        with self._guard:
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
        try:
            return decode_answer(memoryview(answer))
        finally:
            answer[:] = bytes(len(answer))
