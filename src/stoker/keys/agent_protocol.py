"""The key agent's messages: bytes to requests and answers and back. See docs/design/keys.md, "The agent"."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from stoker.core.errors import ERROR_CLASSES, ROOM_EXIT_CODES, StokerError
from stoker.keys.caller import CREDENTIALS_BYTES, HAS_CREDENTIALS, Sender
from stoker.keys.errors import AgentLost, BadKekRef
from stoker.keys.lease import Use
from stoker.keys.refs import MAX_REF_BYTES, KekRef, Purpose
from stoker.keys.secret import KEY_BYTES, SecretKey

MAX_BODY_BYTES: Final = 4096
MAX_WRAPPED_BYTES: Final = 1024
MAX_TEXT_BYTES: Final = 1200

_VERSION: Final = 2
_LENGTH: Final = struct.Struct(">I")
_NEW, _OPEN, _HELLO, _KEY, _ERROR, _WELCOME = 1, 2, 3, 129, 130, 131


@dataclass(frozen=True, slots=True)
class Request:
    """A rank wants a new partition key to seal with (`wrapped` is empty), or one opened."""

    use: Use
    kek: KekRef
    purpose: Purpose
    wrapped: bytes = b""


def encode_hello(secret: SecretKey) -> bytearray:
    """The body of the first message on a connection: the secret that was handed to this process."""
    return _with_key(_HELLO, secret)


def decode_hello(body: memoryview) -> memoryview:
    """The secret in a first message, in place. Raises AgentLost on anything that is no first message."""
    fields = _Fields(body)
    if fields.head() != _HELLO:
        raise AgentLost("A connection to the key agent begins with who it is.")
    secret = fields.raw(KEY_BYTES)
    fields.end()
    return secret


def encode_welcome(rendezvous: SecretKey) -> bytearray:
    """The answer to a process that proved who it is: the secret that the ranks of this attempt share."""
    return _with_key(_WELCOME, rendezvous)


def decode_welcome(body: memoryview) -> SecretKey:
    """The ranks' shared secret. Raises the agent's error as its own class."""
    fields = _Fields(body)
    kind = fields.head()
    if kind == _ERROR:
        raise _told(fields)
    if kind != _WELCOME:
        raise AgentLost(f"The key agent answered with a message of kind {kind}.")
    secret = SecretKey()
    try:
        secret.writable_view()[:] = fields.raw(KEY_BYTES)
        fields.end()
    except BaseException:
        secret.wipe()
        raise
    return secret


def _with_key(kind: int, key: SecretKey) -> bytearray:
    body = bytearray(2 + KEY_BYTES)
    body[0], body[1] = _VERSION, kind
    body[2:] = key.view()
    return body


def encode_request(request: Request) -> bytearray:
    """The body of a request."""
    body = bytearray([_VERSION, _NEW if request.use is Use.SEAL else _OPEN])
    _put(body, str(request.kek).encode(), MAX_REF_BYTES)
    _put(body, request.purpose.encode(), MAX_REF_BYTES)
    if request.use is Use.OPEN:
        _put(body, request.wrapped, MAX_WRAPPED_BYTES)
    return body


def decode_request(body: memoryview) -> Request:
    """Raises AgentLost on anything that is not exactly one request."""
    fields = _Fields(body)
    kind = fields.head()
    if kind not in (_NEW, _OPEN):
        raise AgentLost(f"The message is of kind {kind}; expected a request.")
    try:
        kek = KekRef.parse(bytes(fields.take(MAX_REF_BYTES)).decode("ascii"))
        purpose = Purpose(bytes(fields.take(MAX_REF_BYTES)).decode("ascii"))
    except (ValueError, BadKekRef) as error:
        raise AgentLost("The request does not name a KEK and a purpose.") from error
    wrapped = bytes(fields.take(MAX_WRAPPED_BYTES)) if kind == _OPEN else b""
    fields.end()
    return Request(Use.SEAL if kind == _NEW else Use.OPEN, kek, purpose, wrapped)


def encode_key(key: SecretKey, wrapped: bytes) -> bytearray:
    """The body of an answer that carries a key; the caller overwrites it after sending."""
    tail = bytearray()
    _put(tail, wrapped, MAX_WRAPPED_BYTES)
    body = bytearray(2 + KEY_BYTES + len(tail))  # at its full length at once: growing would leave a copy
    body[0], body[1] = _VERSION, _KEY
    body[2 : 2 + KEY_BYTES] = key.view()
    body[2 + KEY_BYTES :] = tail
    return body


def encode_error(error: StokerError) -> bytearray:
    """The body of an answer that carries an error by its id; long texts are cut."""
    body = bytearray([_VERSION, _ERROR])
    for text in (error.id, error.message, error.hint):
        _put(body, text.encode(errors="replace")[:MAX_TEXT_BYTES], MAX_TEXT_BYTES)
    return body


def decode_answer(body: memoryview) -> tuple[SecretKey, bytes]:
    """The key and, for a new one, its wrapped form. Raises the agent's error as its own class."""
    fields = _Fields(body)
    kind = fields.head()
    if kind == _ERROR:
        raise _told(fields)
    if kind != _KEY:
        raise AgentLost(f"The key agent answered with a message of kind {kind}.")
    key = SecretKey()
    try:
        key.writable_view()[:] = fields.raw(KEY_BYTES)
        wrapped = bytes(fields.take(MAX_WRAPPED_BYTES))
        fields.end()
    except BaseException:
        key.wipe()
        raise
    return key, wrapped


def _told(fields: _Fields) -> StokerError:
    texts = [bytes(fields.take(MAX_TEXT_BYTES)).decode(errors="replace") for _ in range(3)]
    fields.end()
    return _error_class(texts[0])(texts[1], hint=texts[2])


def _error_class(id_: str) -> type[StokerError]:
    for room in ("keys", "core"):
        for code in ROOM_EXIT_CODES[room]:
            found = ERROR_CLASSES.get(code)
            if found is not None and found.id == id_:
                return found
    raise AgentLost(f"The key agent answered with an error that this Stoker does not know: {id_[:60]!a}.")


class _Fields:
    """Takes length-prefixed fields off a body, never past its end."""

    def __init__(self, body: memoryview) -> None:
        self._rest = body

    def head(self) -> int:
        version, kind = self.raw(2)
        if version != _VERSION:
            raise AgentLost(f"The message is of protocol version {version}; expected {_VERSION}.")
        return kind

    def raw(self, length: int) -> memoryview:
        if len(self._rest) < length:
            raise AgentLost("The message ends too early.")
        field, self._rest = self._rest[:length], self._rest[length:]
        return field

    def take(self, limit: int) -> memoryview:
        length = int.from_bytes(self.raw(2))
        if length > limit:
            raise AgentLost(f"The message holds a field of {length} bytes; at most {limit} are allowed.")
        return self.raw(length)

    def end(self) -> None:
        if len(self._rest):
            raise AgentLost(f"The message has {len(self._rest)} bytes too many.")


def _put(body: bytearray, field: bytes, limit: int) -> None:
    if len(field) > limit:
        raise AgentLost(f"A field of {len(field)} bytes does not fit a message; at most {limit} are allowed.")
    body += len(field).to_bytes(2)
    body += field


def check_socket(sock: socket.socket) -> None:
    """Raises AgentLost unless `sock` is a local stream socket: keys never cross a network."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise AgentLost("The key agent speaks only over an inherited AF_UNIX stream socket.")


def send_body(sock: socket.socket, body: bytearray) -> None:
    """Send one message and overwrite `body`, which may hold a key."""
    frame = bytearray(_LENGTH.size + len(body))
    try:
        _LENGTH.pack_into(frame, 0, len(body))
        frame[_LENGTH.size :] = body
        sock.sendall(frame)
    finally:
        frame[:] = bytes(len(frame))
        body[:] = bytes(len(body))


def receive_body(sock: socket.socket) -> bytearray | None:
    """The next message's body, or None when the other side has closed between messages.

    Raises AgentLost on a length of 0 or above the cap, before anything is allocated, and on a cut message.
    """
    message = receive_from(sock)
    return None if message is None else message[0]


def receive_from(sock: socket.socket) -> tuple[bytearray, Sender | None] | None:
    """The next message's body and who wrote it, as `receive_body`; None for a sender that nobody tells.

    Raises AgentLost, too, when several processes wrote parts of one message.
    """
    senders: set[Sender] = set()
    head = _receive(sock, _LENGTH.size, senders)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if not 2 <= length <= MAX_BODY_BYTES:
        raise AgentLost(f"A message of {length} bytes was announced; expected 2 to {MAX_BODY_BYTES}.")
    body = _receive(sock, length, senders)
    if body is None:
        raise AgentLost("The connection closed in the middle of a message.")
    if len(senders) > 1:
        body[:] = bytes(length)
        raise AgentLost("Several processes wrote one message.")
    return body, next(iter(senders), None)


def _receive(sock: socket.socket, length: int, senders: set[Sender]) -> bytearray | None:
    buffer = bytearray(length)
    received = 0
    while received < length:
        count = _receive_some(sock, memoryview(buffer)[received:], senders)
        if count == 0:
            if received == 0:
                return None
            buffer[:] = bytes(length)
            raise AgentLost("The connection closed in the middle of a message.")
        received += count
    return buffer


def _receive_some(sock: socket.socket, room: memoryview, senders: set[Sender]) -> int:
    if not HAS_CREDENTIALS:
        return sock.recv_into(room)
    count, told, _, _ = sock.recvmsg_into([room], socket.CMSG_SPACE(CREDENTIALS_BYTES))
    for level, kind, data in told:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) == CREDENTIALS_BYTES:
            senders.add(Sender.unpack(data))
    return count
