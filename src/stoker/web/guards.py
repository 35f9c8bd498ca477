"""What stands before every request: bounds on size and time, the right host, and headers on what goes out.

Pure ASGI, so that nothing of a request is read before it was looked at. See docs/design/web.md, "Guards".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES: Final = 64 * 1024
BODY_WITHIN_S: Final = 10.0
SECRET_WORDS: Final = frozenset({"token", "passphrase", "password", "secret"})

HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; form-action 'self'; "
     b"frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


class Guards:
    """The app behind its guards. `hosts` are the names, without a port, under which it may be asked for."""

    def __init__(self, app: App, *, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        answer = _with_headers(send)
        wrong = self._fault(scope)
        if wrong is not None:
            return await _refuse(answer, *wrong)
        try:
            body = await asyncio.wait_for(_body(receive), BODY_WITHIN_S)
        except TimeoutError:
            return await _refuse(answer, 408, "The request took too long.")
        if body is None:
            return await _refuse(answer, 413, f"A request has at most {MAX_BODY_BYTES} bytes.")
        sent = False

        async def whole() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self._app(scope, whole, answer)

    def _fault(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        host = headers.get(b"host", [])
        name = host[0].decode("latin-1").lower() if len(host) == 1 else ""
        if _without_port(name) not in self._hosts:
            return 421, "This server is not asked for under that name."
        lengths = headers.get(b"content-length", [])
        if (b"transfer-encoding" in headers and lengths) or len(lengths) > 1:
            return 400, "The request has two lengths."
        if scope["method"] not in ("GET", "HEAD"):
            origins = headers.get(b"origin", [])
            if any(each.decode("latin-1").lower().partition("://")[2] != name for each in origins):
                return 403, "The form is not of this server."
            if headers.get(b"sec-fetch-site", [b"same-origin"])[0] not in (b"same-origin", b"none"):
                return 403, "The form is not of this server."
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if SECRET_WORDS & {word.lower() for word in asked}:
            return 400, "Secrets are never part of an address: it is kept in histories and logs."
        return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


async def _body(receive: Receive) -> bytes | None:
    """The whole body, None when it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return answer


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode() + b"\n"})
