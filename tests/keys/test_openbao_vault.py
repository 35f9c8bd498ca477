"""KEKs in a real OpenBao: they never leave it, it refuses by itself, and a destroyed one is gone for good."""

from __future__ import annotations

import base64
import logging
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stoker.core.clock import ManualClock
from stoker.core.errors import StokerError
from stoker.keys.errors import (
    BadKeysUrl,
    InsecureLink,
    KeyDestroyed,
    KeyNotActive,
    LooseKeyFile,
    VaultRefused,
    VaultUnreachable,
    WrongContext,
    WrongRootKey,
)
from stoker.keys.open import open_backend
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.vault import MAX_WRAPPED_BYTES
from stoker.keys.vaults.bao_link import BaoLink
from stoker.keys.vaults.openbao import SLICE, WRAPPED_BYTES, OpenBaoVault, open_openbao
from support.openbao import MOUNT, Bao, openbao, private

REF = KekRef("dataset/own-text", 1)
CONTEXT = b"dataset/own-text 1 dataset"

PAGE = Path(__file__).parents[2] / "docs/design/vaults.md"
RIGHTS = PAGE.read_text().split("```hcl\n")[1].split("```")[0]
"""The policy that docs/design/vaults.md gives for Stoker's token."""


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as running:
        yield running


@pytest.fixture
def vault(bao: Bao, tmp_path: Path) -> Iterator[OpenBaoVault]:
    """With no more rights than the page asks for."""
    bao.new_token(tmp_path / "own-token", RIGHTS)
    with open_openbao(bao.url_with(tmp_path / "own-token")) as opened:
        yield opened


def wrapped(vault: OpenBaoVault, handle: str, context: bytes = CONTEXT) -> tuple[bytes, bytes]:
    """A key, and the same key wrapped."""
    with SecretKey.generate() as key:
        return bytes(key.view()), vault.wrap(handle, REF, key, context)


def test_a_key_comes_back_also_through_another_client(vault: OpenBaoVault, bao: Bao) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    assert len(sealed) == WRAPPED_BYTES <= MAX_WRAPPED_BYTES
    assert plain not in sealed
    with open_openbao(bao.url) as other, other.unwrap(handle, REF, sealed, CONTEXT) as opened:
        assert bytes(opened.view()) == plain


def test_a_kek_cannot_leave_openbao(vault: OpenBaoVault, bao: Bao) -> None:
    handle = vault.create(REF)
    config = bao.ask("GET", f"{MOUNT}/keys/{handle}")[1]["data"]
    assert (config["type"], config["exportable"], config["allow_plaintext_backup"]) == (
        "aes256-gcm96",
        False,
        False,
    )
    assert config["deletion_allowed"] is False
    for path in (f"export/encryption-key/{handle}", f"backup/{handle}"):  # not even to root
        status, answer = bao.ask("GET", f"{MOUNT}/{path}")
        assert status >= 400
        assert set(answer) == {"errors"}
    assert bao.ask("DELETE", f"{MOUNT}/keys/{handle}")[0] == 400


def test_the_token_with_the_pages_rights_cannot_make_a_kek_leave_openbao(
    vault: OpenBaoVault, bao: Bao, tmp_path: Path
) -> None:
    handle, token = vault.create(REF), (tmp_path / "own-token").read_text().strip()
    for word in ("exportable", "allow_plaintext_backup"):
        loosened = bao.ask("POST", f"{MOUNT}/keys/{handle}/config", {word: True}, token)
        loose = bao.ask("POST", f"{MOUNT}/keys/another", {"type": "aes256-gcm96", word: True}, token)
        assert (loosened[0], loose[0]) == (403, 403)
    for verb, path in (("GET", f"{MOUNT}/backup/{handle}"), ("POST", f"{MOUNT}/keys/{handle}/rotate")):
        assert bao.ask(verb, path, token=token)[0] == 403
    vault.destroy(handle, REF)


def test_a_batch_of_many_slices_comes_back_in_order_and_all_or_none(vault: OpenBaoVault) -> None:
    handle = vault.create(REF)
    made = [wrapped(vault, handle, b"%d" % number) for number in range(5)]
    order = [number % 5 for number in range(2 * SLICE + 1)]
    opened = vault.unwrap_many(handle, REF, [(made[number][1], b"%d" % number) for number in order])
    assert [bytes(key.view()) for key in opened] == [made[number][0] for number in order]
    assert vault.unwrap_many(handle, REF, []) == []
    wrong = [(made[number][1], b"%d" % number) for number in order[:-1]] + [(made[0][1], b"1")]
    with pytest.raises(WrongContext):
        vault.unwrap_many(handle, REF, wrong)


def test_the_context_the_kek_and_the_form_must_be_the_same(vault: OpenBaoVault) -> None:
    handle, other = vault.create(REF), vault.create(KekRef(REF.scope, 2))
    _, sealed = wrapped(vault, handle)
    changed = [sealed[:-1], sealed + b"\0", b"", b"STKA" + sealed[4:], sealed[:-1] + bytes([sealed[-1] ^ 1])]
    for bytes_of, context in [*((each, CONTEXT) for each in changed), (sealed, b""), (sealed, CONTEXT[:-1])]:
        with pytest.raises(WrongContext):
            vault.unwrap(handle, REF, bytes_of, context)
    with pytest.raises(WrongContext):
        vault.unwrap(other, REF, sealed, CONTEXT)


def test_a_disabled_kek_is_refused_by_openbao_itself_until_it_is_enabled(
    vault: OpenBaoVault, bao: Bao
) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    for _ in range(2):
        vault.disable(handle, REF)
    asked = {"ciphertext": "vault:v1:" + base64.b64encode(sealed[5:]).decode(), "associated_data": ""}
    status, answer = bao.ask("POST", f"{MOUNT}/decrypt/{handle}", asked)  # root, past all that is ours
    assert (status, "soft-deleted" in str(answer)) == (400, True)
    with pytest.raises(KeyNotActive):
        vault.unwrap(handle, REF, sealed, CONTEXT)
    with pytest.raises(KeyNotActive):
        wrapped(vault, handle)
    assert vault.exists(handle, REF)
    for _ in range(2):
        vault.enable(handle, REF)
    with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
        assert bytes(opened.view()) == plain


@pytest.mark.parametrize("disabled_first", [False, True])
def test_a_destroyed_kek_is_gone_and_no_use_brings_it_back(
    vault: OpenBaoVault, bao: Bao, disabled_first: bool
) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    if disabled_first:
        vault.disable(handle, REF)
    for _ in range(2):
        vault.destroy(handle, REF)
    with pytest.raises(KeyDestroyed):
        vault.unwrap(handle, REF, sealed, CONTEXT)
    with pytest.raises(KeyDestroyed):
        wrapped(vault, handle)  # transit would make a new key for this, if it were let
    for change in (vault.enable, vault.disable):
        with pytest.raises(KeyDestroyed):
            change(handle, REF)
    assert not vault.exists(handle, REF)
    assert bao.ask("GET", f"{MOUNT}/keys/{handle}")[0] == 404


def test_a_handle_that_is_none_is_a_kek_that_is_gone(vault: OpenBaoVault) -> None:
    for handle in ("", "stoker-x", "../../sys/seal", "stoker-" + "0" * 32 + "/config"):
        with pytest.raises(KeyDestroyed):
            vault.unwrap(handle, REF, b"STKB\x01" + bytes(60), CONTEXT)
        vault.destroy(handle, REF)
        assert not vault.exists(handle, REF)


def test_a_mount_that_is_not_there_is_no_destroyed_key(bao: Bao) -> None:
    with open_openbao(bao.url.replace(f"/{MOUNT}?", "/other?")) as vault:
        for act in (vault.exists, vault.destroy):
            with pytest.raises(VaultRefused):
                act("stoker-" + "0" * 32, REF)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request from now on, by its path."""
    paths: list[str] = []
    send, guard = BaoLink._send, threading.Lock()

    def note(link: BaoLink, verb: str, path: str, body: Any) -> Any:
        with guard:
            paths.append(path)
        return send(link, verb, path, body)

    monkeypatch.setattr(BaoLink, "_send", note)
    return paths


def test_atk_026_openbao_with_a_revoked_token_is_asked_once_for_a_thousand_ranks(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file = tmp_path / "own-token"
    token = bao.new_token(token_file, RIGHTS)
    with open_openbao(bao.url_with(token_file)) as vault:
        handle = vault.create(REF)
        _, sealed = wrapped(vault, handle)
        assert bao.ask("POST", "auth/token/revoke", {"token": token})[0] == 204
        paths = counted(monkeypatch)

        def rank(number: int) -> type[StokerError]:
            with pytest.raises(VaultRefused) as raised:
                vault.unwrap(handle, KekRef("dataset/own-text", 1 + number % 7), sealed, CONTEXT)
            assert token not in str(raised.value) + raised.value.hint
            return raised.type

        assert rank(0) is VaultRefused
        first = len(paths)
        assert paths == [f"{MOUNT}/decrypt/{handle}", "auth/token/lookup-self"]
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(rank, range(1000))) == {VaultRefused}
        assert len(paths) <= first + 2 * 5  # one caller after each rest of 1, 2, 4, 8, 16 s at most


def test_atk_026_openbao_takes_a_renewed_token_without_a_restart(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file = tmp_path / "own-token"
    token = bao.new_token(token_file, RIGHTS)
    with open_openbao(bao.url_with(token_file)) as vault:
        handle = vault.create(REF)
        plain, sealed = wrapped(vault, handle)
        bao.ask("POST", "auth/token/revoke", {"token": token})
        with pytest.raises(VaultRefused, match=r"own-token.*expired"):
            vault.unwrap(handle, REF, sealed, CONTEXT)
        bao.new_token(token_file, RIGHTS)
        vault._patience._rests.clear()  # as when the rest is over
        with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
            assert bytes(opened.view()) == plain


def test_a_right_that_is_missing_rests_one_kek_and_not_the_others(bao: Bao, tmp_path: Path) -> None:
    with open_openbao(bao.url) as root:
        allowed, forbidden = root.create(REF), root.create(REF)
        sealed = {handle: wrapped(root, handle)[1] for handle in (allowed, forbidden)}
    only = f'path "transit/decrypt/{allowed}" {{ capabilities = ["update"] }}'
    bao.new_token(tmp_path / "own-token", only)
    with open_openbao(bao.url_with(tmp_path / "own-token")) as vault:
        with pytest.raises(VaultRefused, match="does not let"):
            vault.unwrap(forbidden, KekRef("dataset/other", 1), sealed[forbidden], CONTEXT)
        vault.unwrap(allowed, REF, sealed[allowed], CONTEXT).wipe()


def test_an_openbao_that_has_ended_is_unreachable(tmp_path: Path) -> None:
    with openbao(tmp_path / "bao") as running:
        vault = open_openbao(running.url)
        handle = vault.create(REF)
        _, sealed = wrapped(vault, handle)
    with pytest.raises(VaultUnreachable):
        vault.unwrap(handle, REF, sealed, CONTEXT)
    vault.close()


def test_over_tls_by_a_pinned_authority_and_never_past_it(tmp_path: Path) -> None:
    with openbao(tmp_path / "bao", tls=True) as running:
        with open_openbao(running.url) as vault:
            handle = vault.create(REF)
            plain, sealed = wrapped(vault, handle)
            with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
                assert bytes(opened.view()) == plain
        for spoilt in (running.url.split("&ca_file")[0], f"{running.url}&spiffe_id=spiffe://stoker.test/bao"):
            with open_openbao(spoilt) as vault, pytest.raises(InsecureLink):
                vault.unwrap(handle, REF, sealed, CONTEXT)


def test_no_key_and_no_token_stand_in_a_log_or_an_error(
    vault: OpenBaoVault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # which an AWS vault in this process keeps quiet
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    with pytest.raises(WrongContext) as raised:
        vault.unwrap_many(handle, REF, [(sealed, CONTEXT), (sealed, b"another")])  # OpenBao opens the first
    told, error = caplog.text, raised.value
    while error is not None:
        told += f"{error!r} {error}"
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    assert "decrypt" in caplog.text
    for secret in (
        base64.b64encode(plain).decode(),
        plain.hex(),
        (tmp_path / "own-token").read_text().strip(),
    ):
        assert secret not in told


@pytest.mark.parametrize(
    "url",
    [
        "openbao+https://host:8200/transit",
        "openbao+https://host:8200/?token_file=/t",
        "openbao+https://host:8200/../transit?token_file=/t",
        "openbao+https://host:8200/transit?token_file=t",
        "openbao+https://host:8200/transit?token_file=/t&token=s.123",
        "openbao+https://host:8200/transit?token_file=/t&plain_loopback=no",
        "openbao+ftp://host:8200/transit?token_file=/t",
    ],
)
def test_a_url_that_names_no_mount_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadKeysUrl) as raised:
        open_openbao(url)
    assert "s.123" not in str(raised.value)


def test_plain_http_is_for_loopback_and_by_the_explicit_word(tmp_path: Path) -> None:
    for url in (
        "http://127.0.0.1:1/transit?token_file=/t",
        "http://10.0.0.1/t?token_file=/t&plain_loopback=yes",
    ):
        with pytest.raises(InsecureLink, match="in the clear"):
            open_openbao(f"openbao+{url}")


def test_a_token_file_that_others_may_read_is_refused(bao: Bao, tmp_path: Path) -> None:
    private(tmp_path / "loose", "s.x").chmod(0o640)
    with open_openbao(bao.url_with(tmp_path / "loose")) as vault, pytest.raises(LooseKeyFile):
        vault.create(REF)


def registry_url(bao: Bao, folder: Path) -> str:
    return f"{bao.url}&registry={folder}"


def test_two_machines_that_share_the_registrys_folder_see_one_registry(bao: Bao, tmp_path: Path) -> None:
    clock, url = ManualClock(), registry_url(bao, tmp_path / "keys")
    one = open_backend(url, clock=clock, passphrase=None)
    other = open_backend(url, clock=clock, passphrase=None)
    ref = one.create_kek(REF.scope, Purpose.DATASET, expires_s=None)
    with SecretKey.generate() as key:
        sealed = other.wrap(ref, key, CONTEXT)
        with one.unwrap(ref, sealed, CONTEXT) as opened:
            assert opened.view() == key.view()
    one.suspend(ref, "alice", "a look at it")
    with pytest.raises(KeyNotActive):
        other.unwrap(ref, sealed, CONTEXT)
    assert sorted(each.name for each in (tmp_path / "keys").iterdir()) == ["keystore.json", "keystore.lock"]


def test_a_registry_opens_with_its_own_openbao_alone(bao: Bao, tmp_path: Path) -> None:
    clock = ManualClock()
    open_backend(registry_url(bao, tmp_path / "keys"), clock=clock, passphrase=None).close()
    bao.ask("POST", "sys/mounts/elsewhere", {"type": "transit"})
    elsewhere = registry_url(bao, tmp_path / "keys").replace(f"/{MOUNT}?", "/elsewhere?")
    with pytest.raises((KeyDestroyed, WrongRootKey)):
        open_backend(elsewhere, clock=clock, passphrase=None)
    with pytest.raises(WrongRootKey, match="another vault"):
        open_backend((tmp_path / "keys").as_uri(), clock=clock, passphrase=None)


def test_atk_034_an_old_registry_restored_after_a_destruction_opens_nothing(bao: Bao, tmp_path: Path) -> None:
    """ATK-034: with the whole folder turned back, tombstones and all, and no ledger asked."""
    clock, folder = ManualClock(), tmp_path / "keys"
    backend = open_backend(registry_url(bao, folder), clock=clock, passphrase=None)
    ref = backend.create_kek(REF.scope, Purpose.DATASET, expires_s=None)
    with SecretKey.generate() as key:
        sealed = backend.wrap(ref, key, CONTEXT)
    shutil.copytree(folder, tmp_path / "old")
    backend.request_destroy(ref, "alice")
    backend.destroy_now(ref, "bob", reason="consent withdrawn")
    backend.close()

    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "old", folder)
    restored = open_backend(registry_url(bao, folder), clock=clock, passphrase=None)
    assert restored.info(ref).state.value == "active"  # all that the old registry knows
    with pytest.raises(KeyDestroyed):
        restored.unwrap(ref, sealed, CONTEXT)
    with pytest.raises(KeyDestroyed):
        restored.unwrap_many(ref, [(sealed, CONTEXT)])
    with SecretKey.generate() as key, pytest.raises(KeyDestroyed):
        restored.wrap(ref, key, CONTEXT)
    assert restored.apply_tombstones([str(ref)]) == (str(ref),)  # what the ledger would have said
    restored.close()
