"""Serving the page by uvicorn on loopback; a connection may cost so much. See docs/design/web.md."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from stoker.web.errors import PortTaken
from stoker.web.guards import App

HEAD_WITHIN_S: Final = 10.0
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_CONNECTIONS: Final = 400


class PunctualProtocol(H11Protocol):
    """Ends a connection whose request head does not arrive in time, so that slow ones cost nothing."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_WITHIN_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_WITHIN_S, self._late)

    def _late(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def make_server(app: App, *, certificate: Path | None = None, key: Path | None = None) -> uvicorn.Server:
    """The server; `certificate` and its `key` in PEM make it speak TLS 1.2 or newer."""
    settings = uvicorn.Config(
        app,
        http=PunctualProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return uvicorn.Server(settings)


def listen(port: int) -> socket.socket:
    """A socket on the machine's loopback and nowhere else; port 0 takes a free one. Raises PortTaken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"Port {port} of 127.0.0.1 cannot be listened on: {error.strerror}.",
            hint="Another program has it. Choose another with --port, or 0 for a free one.",
        ) from error
    return sock
