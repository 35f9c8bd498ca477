"""A registry over a real OpenBao: what the service sees and refuses, and what holds when it fails midway."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.errors import (
    BadKeysUrl,
    KeyDestroyed,
    LooseKeyFile,
    VaultUnreachable,
)
from stoker.keys.keystore import KekEntry, decode_head, decode_keystore
from stoker.keys.open import open_backend, open_registry
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.registry import Registry
from stoker.keys.root_sources import WrappedRoot
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekState
from stoker.keys.vaults.bao_link import BaoPlace
from stoker.keys.vaults.openbao import OpenBaoVault, open_openbao
from support.key_stores import SCOPE
from support.openbao import MOUNT, Bao, openbao

CONTEXT: Final = b"a place"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def registry(bao: Bao, folder: Path) -> Iterator[Registry]:
    with open_registry(open_openbao(bao.url), folder, clock=ManualClock()) as made:
        yield made


def made_kek(registry: Registry) -> tuple[KekRef, bytes, bytes]:
    ref = registry.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
    with SecretKey.generate() as key:
        return ref, registry.wrap(ref, key, CONTEXT), bytes(key.view())


def entry(bao: Bao, folder: Path, ref: KekRef) -> KekEntry:
    """What the registry keeps about a KEK, read anew."""
    vault = open_openbao(bao.url)
    data = (folder / "keystore.json").read_bytes()
    with WrappedRoot(vault, "x").open(decode_head(data, "x")) as keys:
        return decode_keystore(data, keys, "x").keks[ref]


def raw_decrypt(bao: Bao, handle: str, wrapped: bytes, bound: bytes) -> tuple[int, object]:
    ciphertext = "vault:v1:" + base64.b64encode(wrapped[22 + 5 :]).decode()
    body = {"ciphertext": ciphertext, "associated_data": base64.b64encode(bound).decode()}
    return bao.ask("POST", f"{MOUNT}/decrypt/{handle}", body)


def test_the_service_sees_no_partition_key(bao: Bao, folder: Path, registry: Registry) -> None:
    ref, wrapped, key = made_kek(registry)
    handle = entry(bao, folder, ref).handle
    assert handle is not None
    bound = registry._wraps._bound(ref, wrapped[6:22], CONTEXT)
    status, answer = raw_decrypt(bao, handle, wrapped, bound)
    assert status == 200
    assert isinstance(answer, dict)
    seen = base64.b64decode(answer["data"]["plaintext"])
    assert len(seen) == 32
    assert seen != key
    with registry.unwrap(ref, wrapped, CONTEXT) as opened:
        assert bytes(opened.view()) == key


def test_atk_020_the_service_itself_refuses_what_is_pending_suspended_or_destroyed(
    bao: Bao, folder: Path, registry: Registry
) -> None:
    ref, wrapped, _ = made_kek(registry)
    handle = entry(bao, folder, ref).handle
    assert handle is not None
    bound = registry._wraps._bound(ref, wrapped[6:22], CONTEXT)

    def service() -> int:
        return raw_decrypt(bao, handle, wrapped, bound)[0]

    assert service() == 200
    assert bao.ask("DELETE", f"{MOUNT}/keys/{handle}")[0] == 400, "not even root deletes it by mistake"
    registry.suspend(ref, "alice", "a doubt")
    assert service() == 400
    registry.resume(ref, "alice")
    assert service() == 200
    registry.request_destroy(ref, "alice")
    registry.approve_destroy(ref, "bob")
    assert service() == 400
    registry.destroy_now(ref, "bob", reason="at once")
    assert service() == 400
    assert bao.ask("GET", f"{MOUNT}/keys/{handle}")[0] == 404
    assert not registry.vault_has(ref)


class Failing(OpenBaoVault):
    """Loses its connection before it destroys, as often as `fails` says."""

    fails = 1

    def destroy(self, handle: str, ref: KekRef) -> None:
        if self.fails:
            self.fails -= 1
            raise VaultUnreachable("The cable was pulled.")
        super().destroy(handle, ref)


def test_a_destruction_that_the_service_did_not_answer_is_told_and_made_good(bao: Bao, folder: Path) -> None:
    clock = ManualClock()
    registry = open_registry(Failing(BaoPlace.parse(bao.url)), folder, clock=clock)
    ref, wrapped, _ = made_kek(registry)
    registry.request_destroy(ref, "alice")
    with pytest.raises(VaultUnreachable):
        registry.destroy_now(ref, "bob", reason="at once")
    info = registry.info(ref)
    assert (info.state, info.destroyed_s) == (KekState.DESTROYED, None)
    assert registry.vault_has(ref)
    with pytest.raises(KeyDestroyed):
        registry.unwrap(ref, wrapped, CONTEXT)
    clock.advance(5)
    with open_registry(open_openbao(bao.url), folder, clock=clock) as again:
        assert again.info(ref).destroyed_s == clock.now_s()
        assert not again.vault_has(ref)
    assert registry.info(ref).destroyed_s == clock.now_s(), "the one that failed sees it too"
    registry.close()


def test_the_token_comes_out_of_a_file_or_a_pipe_that_the_environment_names(
    bao: Bao, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"openbao+{bao.origin}/{MOUNT}?plain_loopback=yes"
    with pytest.raises(BadKeysUrl):
        open_backend(url, clock=ManualClock(), passphrase=None, folder=folder)
    reader, writer = os.pipe()
    os.write(writer, bao.token_file.read_bytes())
    os.close(writer)
    for place in (bao.token_file, Path(f"/dev/fd/{reader}")):
        monkeypatch.setenv("STOKER_VAULT_TOKEN_FILE", str(place))
        backend = open_backend(url, clock=ManualClock(), passphrase=None, folder=folder)
        assert backend.list_keks() == ()
        backend.close()
    monkeypatch.setenv("STOKER_VAULT_TOKEN_FILE", "/dev/fd/999")
    with pytest.raises(LooseKeyFile):
        open_backend(url, clock=ManualClock(), passphrase=None, folder=folder)
    os.close(reader)
