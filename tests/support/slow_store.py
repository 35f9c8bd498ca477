"""A small S3 server on loopback that goes wrong on command: 503, hang, trickle, short, wrong, reset, lost.

It speaks as much of S3 as Stoker uses: GET and HEAD with Range, PUT with `If-None-Match: *`, DELETE (of one
and of many), and LIST in pages; those five are the `method` of a plan and of what was seen. It checks no
credentials. Google's conditional PUT is understood too, and of Azure GET, HEAD and PUT. Use:

    with SlowStore() as server, pointed_at(server):          # sets AWS_ENDPOINT_URL and so on, then restores
        store = ObjectStore.open(server.url)                  # s3://slow
        server.forget()                                       # opening made five requests: the probe
        server.plan(Fault.UNAVAILABLE, times=2)               # the next two requests are answered 503
        server.plan(Fault.TRICKLE, method="GET", key="datasets/", times=1)
        server.plan(Fault.HANG, method="GET", skip=3)         # lets three pass, then hangs one
        ...
        assert server.count("GET") == 3 and server.bytes_sent("datasets/") == 4096

For other processes give them `server.environment`: `subprocess.run(…, env=os.environ | server.environment)`.
`SlowStore(latency_s=0.02)` waits before every answer, `bytes_per_s=` limits every body: a slow store rather
than a faulty one. `server.objects` is what it holds, by key; a test may change it in place
(`server.objects[key] = …`). The server's threads are this process's: start it before any fork, use it from
parent and children alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "slow"
TRICKLE_BYTES_PER_S = 10_000

CONDITIONS = {"If-None-Match": "*", "x-goog-if-generation-match": "0"}
"""The headers by which S3 and Azure, and Google, are told that the name must be free."""
AZURE_ACCOUNT = "/devstoreaccount1"
"""What stands before the container in the emulator's URLs."""


class Fault(StrEnum):
    """What happens to a request instead of a good answer."""

    UNAVAILABLE = "503 Slow Down, nothing is done"
    INTERNAL = "500 Internal Error, nothing is done"
    BAD_REQUEST = "400 Invalid Request, nothing is done"
    CONFLICT = "409 Conditional Request Conflict, nothing is done"
    FORBIDDEN = "403 Access Denied, nothing is done"
    HANG = "no answer at all until the client goes away or the server ends"
    RESET = "the connection is reset before an answer; nothing is done"
    LOST = "the request is carried out, then the connection is reset: the answer is lost"
    TRICKLE = "a good answer whose body comes at 10 kB/s"
    SHORT = "the announced length, half of the body, then the end of the connection"
    CUT = "half of the range, announced as if that were all"
    WRONG = "a body with one bit changed, in the middle"


REFUSALS = {
    Fault.UNAVAILABLE: (503, "SlowDown"),
    Fault.INTERNAL: (500, "InternalError"),
    Fault.BAD_REQUEST: (400, "InvalidRequest"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
}
"""Faults that are answers of one status and S3 code."""


@dataclass(frozen=True)
class Seen:
    """One request that arrived, in order of arrival; `fault` is what it got instead of a good answer."""

    method: str
    key: str
    range: tuple[int, int] | None
    fault: Fault | None
    condition: str = ""
    """The header that makes a PUT conditional, as it was sent."""


@dataclass
class _Plan:
    fault: Fault
    method: str
    key: str
    times: int
    skip: int


class Pointable(Protocol):
    """A server and the environment that points obstore at it."""

    @property
    def environment(self) -> Mapping[str, str]: ...


@contextlib.contextmanager
def pointed_at(server: Pointable) -> Iterator[None]:
    """This process's environment points at `server` inside the block."""
    with environment_of(server.environment):
        yield


@contextlib.contextmanager
def environment_of(values: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` with `values` in it, and as before afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class SlowStore:
    """The server. One bucket, `slow`; any other bucket name is the same one."""

    def __init__(self, *, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self._seen: list[Seen] = []
        self._sent: list[tuple[str, int]] = []
        self._plans: list[_Plan] = []
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.slow = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> SlowStore:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The store's URL; the environment says where that is."""
        return f"s3://{BUCKET}"

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What points obstore here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_REGION": "us-east-1",
        }

    def plan(self, fault: Fault, *, method: str = "", key: str = "", times: int = 1, skip: int = 0) -> None:
        """Let the next `times` requests fail so, whose method is `method` and whose key holds `key`.

        The first plan that fits a request is used. The first `skip` requests that fit are let through.
        """
        with self.lock:
            self._plans.append(_Plan(fault, method, key, times, skip))

    def no_more_faults(self) -> None:
        """Forget every plan that is still open."""
        with self.lock:
            self._plans.clear()

    def requests(self, method: str = "", key: str = "") -> list[Seen]:
        """The requests that arrived so far, of this method, with `key` in their key."""
        with self.lock:
            return [one for one in self._seen if method in ("", one.method) and key in one.key]

    def count(self, method: str = "", key: str = "") -> int:
        """How many of them."""
        return len(self.requests(method, key))

    def bytes_sent(self, key: str = "") -> int:
        """Body bytes of objects that were sent so far: the traffic out of the store."""
        with self.lock:
            return sum(length for name, length in self._sent if key in name)

    def forget(self) -> None:
        """Start counting anew."""
        with self.lock:
            self._seen.clear()
            self._sent.clear()

    def arrived(self, method: str, key: str, span: tuple[int, int] | None, condition: str) -> Fault | None:
        """Write the request down and say what is to go wrong with it. For the server."""
        with self.lock:
            fault = self._next_fault(method, key)
            self._seen.append(Seen(method, key, span, fault, condition))
            return fault

    def sent(self, key: str, length: int) -> None:
        """Count body bytes. For the server."""
        with self.lock:
            self._sent.append((key, length))

    def _next_fault(self, method: str, key: str) -> Fault | None:
        for plan in self._plans:
            if plan.method in ("", method) and plan.key in key and plan.times:
                if plan.skip:
                    plan.skip -= 1
                    continue
                plan.times -= 1
                return plan.fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    slow: SlowStore

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        slow = self.server.slow
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix(AZURE_ACCOUNT).lstrip("/").partition("/")[2]
        query = parse_qs(parts.query, keep_blank_values=True)
        span = _range_of(self.headers.get("Range"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        listing = method == "GET" and "list-type" in query
        if listing:
            method, key = "LIST", query.get("prefix", [""])[0]
        elif method == "POST" and "delete" in query:
            method, key = "DELETE", " ".join(_keys_in(body))
        fault = slow.arrived(method, key, span, self._condition())
        if slow.latency_s:
            slow.ending.wait(slow.latency_s)
        if fault is Fault.HANG:
            self._hang()
            return
        if fault is Fault.RESET:
            self._reset()
            return
        if fault in REFUSALS:
            self._error(*REFUSALS[fault])
            return
        if fault is Fault.LOST:
            self.wfile = _Nowhere()  # type: ignore[assignment]
        if method == "LIST":
            self._list(query)
        elif method in ("GET", "HEAD"):
            self._get(method, key, span, fault)
        elif method == "PUT":
            self._put(key, body)
        elif method == "DELETE" and self.command == "POST":
            self._delete_many(_keys_in(body))
        elif method == "DELETE":
            with slow.lock:
                slow.objects.pop(key, None)
            self._send(204, b"")
        else:
            self._error(501, "NotImplemented")
        if fault is Fault.LOST:
            self._reset()

    def _get(self, method: str, key: str, span: tuple[int, int] | None, fault: Fault | None) -> None:
        slow = self.server.slow
        found = slow.objects.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
            return
        headers = {"ETag": _etag(found), "Last-Modified": "Mon, 23 Nov 2026 00:00:00 GMT"}
        status, data = 200, found
        if span is not None:
            if span[0] >= len(found):
                self._error(416, "InvalidRange")
                return
            data = found[span[0] : span[1]]
            if fault is Fault.CUT:
                data = data[: len(data) // 2]
            status = 206
            headers["Content-Range"] = f"bytes {span[0]}-{span[0] + len(data) - 1}/{len(found)}"
        if fault is Fault.WRONG and data:
            changed = bytearray(data)
            changed[len(data) // 2] ^= 1
            data = bytes(changed)
        self._head(status, len(data), headers)
        if method == "HEAD":
            return
        if fault is Fault.SHORT:
            self._body(key, data[: len(data) // 2], None)
            self.close_connection = True
            return
        self._body(key, data, TRICKLE_BYTES_PER_S if fault is Fault.TRICKLE else slow.bytes_per_s)

    def _body(self, key: str, data: bytes, bytes_per_s: float | None) -> None:
        slow = self.server.slow
        step = len(data) if bytes_per_s is None else max(1, int(bytes_per_s / 20))
        for start in range(0, len(data), max(1, step)):
            part = data[start : start + step]
            self.wfile.write(part)
            slow.sent(key, len(part))
            if (
                bytes_per_s is not None
                and start + step < len(data)
                and slow.ending.wait(len(part) / bytes_per_s)
            ):
                self.close_connection = True
                return

    def _put(self, key: str, body: bytes) -> None:
        slow = self.server.slow
        with slow.lock:
            taken = bool(self._condition()) and key in slow.objects
            if not taken:
                slow.objects[key] = body
        if taken and "x-ms-blob-type" in self.headers:
            self._error(409, "BlobAlreadyExists")
        elif taken:
            self._error(412, "PreconditionFailed")
        else:
            self._send(200, b"", {"ETag": _etag(body)})

    def _condition(self) -> str:
        for name, value in CONDITIONS.items():
            if self.headers.get(name) == value:
                return f"{name}: {value}"
        return ""

    def _list(self, query: Mapping[str, list[str]]) -> None:
        slow = self.server.slow
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        most = int(query.get("max-keys", ["1000"])[0])
        with slow.lock:
            found = sorted((k, d) for k, d in slow.objects.items() if k.startswith(prefix) and k > after)
        page, more = found[:most], len(found) > most
        lines = [
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-23T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
            for key, data in page
        ]
        token = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
        self._xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}"
            f"</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"{''.join(lines)}</ListBucketResult>"
        )

    def _delete_many(self, keys: Sequence[str]) -> None:
        with self.server.slow.lock:
            for key in keys:
                self.server.slow.objects.pop(key, None)
        done = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._xml(f"<DeleteResult>{done}</DeleteResult>")

    def _xml(self, text: str) -> None:
        self._send(200, f'<?xml version="1.0"?>{text}'.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self._send(status, text.encode(), {"Content-Type": "application/xml"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        if self.command != "HEAD" and body:
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _hang(self) -> None:
        """Say nothing until the client has gone or the server ends."""
        while not self.server.slow.ending.is_set():
            if select.select([self.connection], [], [], 0.02)[0]:
                break
        self.close_connection = True

    def _reset(self) -> None:
        """Close with a RST instead of a FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()


class _Nowhere:
    """Where an answer goes that is to be lost."""

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        pass

    closed = False

    def close(self) -> None:
        pass


def _range_of(header: str | None) -> tuple[int, int] | None:
    """`bytes=2-5` as (2, 6)."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)?", header or "")
    if found is None:
        return None
    return int(found[1]), int(found[2]) + 1 if found[2] else 1 << 62


def _keys_in(body: bytes) -> list[str]:
    """What a request to delete many names."""
    return re.findall(r"<Key>([^<]*)</Key>", body.decode())


def _etag(data: bytes) -> str:
    """Cheap, since it is made for every answer: of the length and both ends."""
    return f'"{len(data)}-{hashlib.md5(data[:4096] + data[-4096:]).hexdigest()}"'
