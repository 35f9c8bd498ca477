"""Real S3 servers as processes on loopback: moto (honours conditions, checks nobody), nanio (the reverse).

    @pytest.fixture(scope="module")
    def moto() -> Iterator[MotoServer]:
        with moto_server() as server:
            yield server

    def test_x(moto: MotoServer) -> None:
        url = moto.new_bucket()                       # s3://bucket-1, empty
        with pointed_at(moto):                        # or env=os.environ | moto.environment for a process
            store = ObjectStore.open(url)

Starting moto takes seconds, a request 10 to 40 ms: share a server in a module, take a bucket for each test.
The processes listen on 127.0.0.1 only, on a port that the system chose, and are ended by their process id.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from support.slow_store import environment_of, pointed_at

__all__ = ["MotoServer", "NanioServer", "environment_of", "moto_server", "nanio_server", "pointed_at"]

START_S = 120.0
"""How long a server may take to answer on a machine that is busy with other things."""


@dataclass
class MotoServer:
    """A running moto: `If-None-Match` works, credentials are not looked at."""

    endpoint: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def environment(self) -> dict[str, str]:
        """What points obstore and boto3 here."""
        return _environment(self.endpoint, "anyone", "anything")

    def new_bucket(self) -> str:
        """A bucket that nobody else uses, as a store URL."""
        name = f"bucket-{next(self._numbers)}-{secrets.token_hex(3)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=START_S):
            return f"s3://{name}"


@dataclass
class NanioServer:
    """A running nanio: credentials are checked, `If-None-Match` on a put is ignored. One bucket, `kept`."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path

    @property
    def url(self) -> str:
        """The bucket as a store URL."""
        return "s3://kept"

    @property
    def environment(self) -> dict[str, str]:
        """What points obstore and boto3 here, with the right credentials."""
        return _environment(self.endpoint, self.access_key, self.secret_key)


def _environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
    }


@contextlib.contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Start moto and end it with the block."""
    arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with _running(arguments, {}) as endpoint:
        yield MotoServer(endpoint)


@contextlib.contextmanager
def nanio_server(folder: Path) -> Iterator[NanioServer]:
    """Start nanio over the new folder `folder`, with one user; end it with the block."""
    access_key, secret_key = f"AK{secrets.token_hex(8).upper()}", secrets.token_hex(20)
    (folder / "kept").mkdir(parents=True)
    # nanio takes no port 0.
    arguments = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(_free_port())]
    arguments += ["--data-dir", str(folder)]
    user = {"NANIO_ACCESS_KEY": access_key, "NANIO_SECRET_KEY": secret_key}
    with _running(arguments, user) as endpoint:
        yield NanioServer(endpoint, access_key, secret_key, folder / "kept")


@contextlib.contextmanager
def _running(arguments: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A server process and the endpoint that it announces on stderr; it is ended with the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            arguments,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            yield _announced(process, log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _announced(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        text = os.pread(log.fileno(), 1 << 16, 0).decode(errors="replace")
        found = re.search(r"[Rr]unning on (http://127\.0\.0\.1:\d+)", text)
        if found:
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {text[-2000:]}")
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} has announced nothing for {START_S} s.")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
