"""KEKs in a real PKCS#11 token, SoftHSM: they never leave it, and the token itself refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from stoker.keys.errors import (
    BadKeysUrl,
    KeyDestroyed,
    KeyNotActive,
    LooseKeyFile,
    VaultRefused,
    VaultUnreachable,
    WrongContext,
)
from stoker.keys.refs import KekRef
from stoker.keys.secret import SecretKey
from stoker.keys.vault import MAX_WRAPPED_BYTES, KekVault
from stoker.keys.vaults.patience import Patience, PatienceRules
from stoker.keys.vaults.pkcs11 import Pkcs11Vault, open_pkcs11
from stoker.keys.vaults.pkcs11_token import TokenPlace
from support.softhsm import PIN, SoftToken, soft_token

REF = KekRef("dataset/own-text", 1)
CONTEXT = b"dataset/own-text 1 dataset"
HASTY = PatienceRules(attempts=2, first_pause_s=0.01, first_rest_s=0.0, longest_rest_s=0.0)


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftToken]:
    with soft_token(tmp_path / "hsm") as made:
        yield made


@pytest.fixture(params=["gcm", "kwp"])
def vault(request: pytest.FixtureRequest, token: SoftToken) -> Iterator[Pkcs11Vault]:
    place = replace(token.place, algorithm=request.param)
    with Pkcs11Vault(place, patience=Patience(HASTY)) as opened:
        yield opened


def wrapped(vault: KekVault, handle: str, ref: KekRef = REF) -> tuple[bytes, bytes]:
    """A key, and the same key wrapped."""
    with SecretKey.generate() as key:
        return bytes(key.view()), vault.wrap(handle, ref, key, CONTEXT)


def test_a_key_comes_back_also_through_another_vault_on_the_token(
    vault: Pkcs11Vault, token: SoftToken
) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    assert len(sealed) <= MAX_WRAPPED_BYTES
    assert plain not in sealed
    with open_pkcs11(token.url) as other, other.unwrap(handle, REF, sealed, CONTEXT) as opened:
        assert bytes(opened.view()) == plain


def test_a_kek_cannot_leave_the_token(vault: Pkcs11Vault, token: SoftToken) -> None:
    handle = vault.create(REF)
    with token.session() as session:
        kek = session.get_key(id=bytes.fromhex(handle))
        assert kek.label == f"stoker {REF}"
        for attribute, must in (
            (Attribute.SENSITIVE, True),
            (Attribute.EXTRACTABLE, False),
            (Attribute.NEVER_EXTRACTABLE, True),
            (Attribute.LOCAL, True),
            (Attribute.SIGN, False),
            (Attribute.DERIVE, False),
        ):
            assert kek[attribute] is must
        with pytest.raises(pkcs11.AttributeSensitive):
            _ = kek[Attribute.VALUE]
        with pytest.raises(pkcs11.PKCS11Error):
            kek[Attribute.EXTRACTABLE] = True


def test_the_context_the_kek_and_every_bit_must_be_the_same(vault: Pkcs11Vault) -> None:
    handle, other = vault.create(REF), vault.create(KekRef(REF.scope, 2))
    _, sealed = wrapped(vault, handle)
    for context in (b"", CONTEXT[:-1], CONTEXT + b"\0", CONTEXT.upper()):
        with pytest.raises(WrongContext, match=str(REF)):
            vault.unwrap(handle, REF, sealed, context)
    with pytest.raises(WrongContext):
        vault.unwrap(other, KekRef(REF.scope, 2), sealed, CONTEXT)
    for position in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(WrongContext):
            vault.unwrap(handle, REF, bytes(flipped), CONTEXT)


@pytest.mark.parametrize("size", [0, 1, 5, 6, 65, 67, 77, 79, 10_000_000])
def test_atk_028_a_blob_of_another_size_is_refused_without_asking_the_token(
    vault: Pkcs11Vault, size: int
) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    blob = (sealed * (size // len(sealed) + 1))[:size]
    vault.close()  # from here on every question to the token would be VaultUnreachable
    with pytest.raises(WrongContext, match=f"{REF} has {size} bytes"):
        vault.unwrap(handle, REF, blob, CONTEXT)


def test_atk_028_a_blob_of_another_shard_is_refused_and_the_batch_with_it(vault: Pkcs11Vault) -> None:
    handle = vault.create(REF)
    good = [(wrapped(vault, handle)[1], CONTEXT) for _ in range(200)]
    foreign = [*good[:150], (good[150][0], b"dataset/other 1 dataset"), *good[151:]]
    with pytest.raises(WrongContext):
        vault.unwrap_many(handle, REF, foreign)
    for key in vault.unwrap_many(handle, REF, good):
        key.wipe()


def test_a_batch_comes_back_in_order(vault: Pkcs11Vault) -> None:
    handle = vault.create(REF)
    pairs = [wrapped(vault, handle) for _ in range(130)]
    opened = vault.unwrap_many(handle, REF, [(sealed, CONTEXT) for _, sealed in pairs])
    assert [bytes(key.view()) for key in opened] == [plain for plain, _ in pairs]
    assert vault.unwrap_many(handle, REF, []) == []
    for key in opened:
        key.wipe()


def test_threads_and_vaults_take_turns_on_one_library(vault: Pkcs11Vault, token: SoftToken) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    with open_pkcs11(token.url) as other, ThreadPoolExecutor(8) as pool:

        def open_many(each: Pkcs11Vault) -> list[bytes]:
            opened = each.unwrap_many(handle, REF, [(sealed, CONTEXT)] * 50)
            assert each.exists(handle, REF)
            return [bytes(key.view()) for key in opened]

        found = list(pool.map(open_many, [vault, other] * 8))
    assert found == [[plain] * 50] * 16


def test_a_disabled_kek_is_refused_by_the_token_in_every_process(
    vault: Pkcs11Vault, token: SoftToken
) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    other = open_pkcs11(token.url)
    other.unwrap(handle, REF, sealed, CONTEXT).wipe()
    vault.disable(handle, REF)
    vault.disable(handle, REF)
    for each in (vault, other):
        with pytest.raises(KeyNotActive, match=str(REF)):
            each.unwrap(handle, REF, sealed, CONTEXT)
    with pytest.raises(KeyNotActive):
        wrapped(vault, handle)
    assert vault.exists(handle, REF)
    vault.enable(handle, REF)
    vault.enable(handle, REF)
    for each in (vault, other):
        with each.unwrap(handle, REF, sealed, CONTEXT) as opened:
            assert bytes(opened.view()) == plain
    other.close()


def test_a_destroyed_kek_is_gone_for_every_process(vault: Pkcs11Vault, token: SoftToken) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    other = open_pkcs11(token.url)
    other.unwrap(handle, REF, sealed, CONTEXT).wipe()
    vault.destroy(handle, REF)
    vault.destroy(handle, REF)
    for each in (vault, other):
        assert not each.exists(handle, REF)
        with pytest.raises(KeyDestroyed, match=str(REF)):
            each.unwrap(handle, REF, sealed, CONTEXT)
        for use in (each.disable, each.enable):
            with pytest.raises(KeyDestroyed):
                use(handle, REF)
    with token.session() as session:
        assert list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})) == []
    other.close()


DESTROY = """
import sys
from stoker.keys.refs import KekRef
from stoker.keys.vaults.pkcs11 import open_pkcs11
with open_pkcs11(sys.argv[1]) as vault:
    vault.destroy(sys.argv[2], KekRef.parse(sys.argv[3]))
"""


def test_a_kek_that_another_machine_destroyed_opens_nothing_here(token: SoftToken) -> None:
    with open_pkcs11(token.url) as vault:
        handle = vault.create(REF)
        _, sealed = wrapped(vault, handle)
        vault.unwrap(handle, REF, sealed, CONTEXT).wipe()
        arguments = [sys.executable, "-c", DESTROY, token.url, handle, str(REF)]
        subprocess.run(arguments, check=True, timeout=120, env=os.environ | token.environment)
        with pytest.raises(KeyDestroyed):
            vault.unwrap(handle, REF, sealed, CONTEXT)


def test_a_handle_stands_for_one_kek_only(vault: Pkcs11Vault) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    for strange in ("", "x" * 32, "0" * 32, handle.upper() + "0", "../" + handle):
        with pytest.raises(KeyDestroyed):
            vault.unwrap(strange, REF, sealed, CONTEXT)
        assert not vault.exists(strange, REF)
        vault.destroy(strange, REF)
    with pytest.raises(KeyDestroyed):
        vault.unwrap(handle, KekRef("dataset/other", 1), sealed, CONTEXT)
    assert vault.create(REF) != handle
    assert vault.exists(handle, REF)


def test_atk_026_a_wrong_pin_is_tried_once_so_that_the_token_does_not_lock_itself(
    token: SoftToken,
) -> None:
    token.pin_file.write_text("wrong-pin-1234\n")
    vault = open_pkcs11(token.url)
    for _ in range(50):
        with pytest.raises(VaultRefused, match="PinIncorrect") as refused:
            vault.create(REF)
        assert "wrong-pin" not in refused.value.message + refused.value.hint
    token.pin_file.write_text(PIN + "\n")
    with open_pkcs11(token.url) as right:
        assert right.exists(right.create(REF), REF)


def test_a_pin_file_that_others_can_read_is_refused(token: SoftToken) -> None:
    token.pin_file.chmod(0o640)
    with pytest.raises(LooseKeyFile):
        open_pkcs11(token.url).create(REF)
    token.pin_file.unlink()
    with pytest.raises(LooseKeyFile, match="missing"):
        open_pkcs11(token.url).create(REF)


def test_a_token_or_library_that_is_not_there_is_said(token: SoftToken) -> None:
    for place in (
        replace(token.place, label="nobody"),
        replace(token.place, serial="0000"),
        replace(token.place, module=Path("/nowhere/lib.so")),
    ):
        with pytest.raises(VaultUnreachable, match=str(place.label)):
            Pkcs11Vault(place, patience=Patience(HASTY)).create(REF)


def test_a_forked_process_does_not_use_its_parents_sessions(token: SoftToken) -> None:
    with open_pkcs11(token.url) as vault:
        handle = vault.create(REF)
        child = os.fork()
        if child == 0:
            try:
                vault.exists(handle, REF)
            except VaultUnreachable:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert vault.exists(handle, REF)


@pytest.mark.parametrize(
    "url",
    [
        "pkcs11:",
        "pkcs11:token=x",
        "pkcs11:token=x?module-path=relative.so",
        "pkcs11:token=x?module-path=/m.so&pin-source=relative",
        "pkcs11:token=x?module-path=/m.so&pin-value=9876",
        "pkcs11:token=x;pin-value=9876?module-path=/m.so",
        "pkcs11:token=x?module-path=/m.so&algorithm=ecb",
        "file:///keys",
    ],
)
def test_a_url_that_says_too_little_or_holds_a_pin_is_refused(url: str) -> None:
    with pytest.raises(BadKeysUrl) as refused:
        open_pkcs11(url)
    assert "9876" not in refused.value.message


def test_a_url_is_read_as_rfc_7512_says() -> None:
    url = "pkcs11:token=My%20token;serial=0123?module-path=/usr/lib/x.so&pin-source=file:/etc/pin%31"
    assert TokenPlace.parse(url) == TokenPlace("My token", Path("/usr/lib/x.so"), Path("/etc/pin1"), "0123")
