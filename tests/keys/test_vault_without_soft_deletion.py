"""A service that speaks transit and has no soft deletion, as HashiCorp Vault has none.

Its binary cannot be had here, so this is a real OpenBao behind a server that knows only what both document.
What it does not show: that HashiCorp Vault does the rest as OpenBao does.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.errors import KeyDestroyed, KeyNotActive
from stoker.keys.open import open_registry
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.registry import Registry
from stoker.keys.secret import SecretKey
from stoker.keys.states import DAY_S, KekState
from stoker.keys.vaults.openbao import open_openbao
from support.key_stores import SCOPE
from support.openbao import MOUNT, Bao, openbao

UNSUPPORTED = {"errors": ["1 error occurred:\n\t* unsupported path\n\n"]}
SHARED = re.compile(
    rf"(GET|POST|DELETE) {MOUNT}/keys/NAME|POST {MOUNT}/keys/NAME/config|POST {MOUNT}/(encrypt|decrypt)/NAME"
    "|GET auth/token/lookup-self"
)
OPENBAO_ONLY = re.compile(rf"(DELETE|POST) {MOUNT}/keys/NAME/soft-delete(-restore)?")


@dataclass
class Elder:
    """The server in front, and every request that it was sent, with NAME for the key's."""

    bao: Bao
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as running:
        yield running


@pytest.fixture
def elder(bao: Bao) -> Iterator[Elder]:
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            named = re.sub(r"stoker-[0-9a-f]{32}", "NAME", self.path.removeprefix("/v1/"))
            asked.append(f"{self.command} {named}")
            if "soft-delete" in self.path:
                status, content = 404, json.dumps(UNSUPPORTED).encode()
            else:
                headers = {"X-Vault-Token": self.headers["X-Vault-Token"], "X-Vault-Request": "true"}
                request = urllib.request.Request(
                    f"{bao.origin}{self.path}", method=self.command, data=body or None, headers=headers
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        status, content = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    status, content = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = pass_on

        def log_message(self, *_: object) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Elder(replace(bao, port=server.server_port), asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def opened(elder: Elder, folder: Path, clock: ManualClock) -> Registry:
    return open_registry(open_openbao(elder.bao.url), folder, clock=clock)


def wrapped(registry: Registry, ref: KekRef) -> bytes:
    with SecretKey.generate() as key:
        return registry.wrap(ref, key, b"a place")


def test_openbao_answers_a_request_that_it_does_not_have_in_these_very_words(bao: Bao) -> None:
    assert bao.ask("DELETE", f"{MOUNT}/keys/any/no-such-request") == (404, UNSUPPORTED)


def test_the_registry_alone_refuses_while_a_key_is_suspended_or_pending(elder: Elder, tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(elder, tmp_path / "registry", clock) as registry:
        ref = registry.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        sealed = wrapped(registry, ref)
        registry.suspend(ref, "alice", "a doubt")
    with opened(elder, tmp_path / "registry", clock) as registry:
        with pytest.raises(KeyNotActive, match="suspended"):
            registry.unwrap(ref, sealed, b"a place")
        registry.resume(ref, "alice")
        registry.unwrap(ref, sealed, b"a place").wipe()
        registry.request_destroy(ref, "alice")
        registry.approve_destroy(ref, "bob")
        with pytest.raises(KeyNotActive, match="pending-destroy"):
            registry.unwrap(ref, sealed, b"a place")
        assert registry.vault_has(ref), "the service itself still serves it"
        registry.withdraw_destroy(ref, "bob")
        registry.unwrap(ref, sealed, b"a place").wipe()


def test_a_destruction_is_carried_out_by_what_both_services_know(elder: Elder, tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(elder, tmp_path / "registry", clock) as registry:
        ref = registry.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        sealed = wrapped(registry, ref)
        registry.request_destroy(ref, "alice")
        registry.approve_destroy(ref, "bob")
        clock.advance(7 * DAY_S)
        assert registry.destroy_due(ref).state is KekState.DESTROYED
        assert not registry.vault_has(ref)
        with pytest.raises(KeyDestroyed):
            registry.unwrap(ref, sealed, b"a place")
    others = [each for each in elder.asked if SHARED.fullmatch(each) is None]
    assert others, "a soft deletion was asked for"
    assert [each for each in others if OPENBAO_ONLY.fullmatch(each) is None] == []


def test_a_key_that_is_gone_is_not_taken_for_disabled(elder: Elder, tmp_path: Path) -> None:
    with open_openbao(elder.bao.url) as vault:
        ref = KekRef(SCOPE, 1)
        handle = vault.create(ref)
        vault.disable(handle, ref)
        vault.destroy(handle, ref)
        with pytest.raises(KeyDestroyed):
            vault.disable(handle, ref)
        with pytest.raises(KeyDestroyed):
            vault.enable(handle, ref)
