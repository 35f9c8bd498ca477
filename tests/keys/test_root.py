"""Opening a key store: the right root and private files, or a clear refusal that leaves nothing behind."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.errors import (
    BadKeysUrl,
    KeystoreDamaged,
    KeystoreMissing,
    LooseKeyFile,
    PassphraseNeeded,
    WrongPassphrase,
    WrongRootKey,
)
from stoker.keys.file_backend import FileBackend
from stoker.keys.open import open_backend
from stoker.keys.refs import Purpose
from stoker.keys.root import ScryptCost, root_from_passphrase
from support.key_stores import CHEAP, PASSPHRASE, SCOPE, open_store
from support.keystore_reader import canonical, live_secrets, passphrase_root, read_root_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def fill(folder: Path, passphrase: str | None = None) -> None:
    with open_store(folder, passphrase=passphrase) as backend:
        backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        backend.signer("manifest")


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]}


def test_a_new_store_is_private_from_the_first_byte(folder: Path) -> None:
    before = os.umask(0)
    try:
        fill(folder)
    finally:
        os.umask(before)
    assert modes(folder) == {"keys": 0o700, "keystore.json": 0o600, "root.key": 0o600, "keystore.lock": 0o600}


def test_a_store_with_a_passphrase_has_no_root_key_file(folder: Path) -> None:
    fill(folder, PASSPHRASE)
    assert sorted(path.name for path in folder.iterdir()) == ["keystore.json", "keystore.lock"]


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_the_format_is_as_documented(folder: Path, passphrase: str | None) -> None:
    fill(folder, passphrase)
    root = read_root_key(folder) if passphrase is None else passphrase_root(folder, passphrase)
    secrets = live_secrets(folder, root)
    assert {f"kek/{SCOPE}#1", "signer/manifest"} < set(secrets)
    assert len(set(secrets.values())) == len(secrets)


@pytest.mark.parametrize("wrong", ["", "x", "Correct horse battery", "correct horse battery ", "\ud800" * 9])
def test_a_wrong_passphrase_opens_nothing_and_changes_nothing(folder: Path, wrong: str) -> None:
    fill(folder, PASSPHRASE)
    before = (folder / "keystore.json").read_bytes()
    with pytest.raises(WrongPassphrase) as error:
        open_store(folder, passphrase=wrong)
    assert wrong not in error.value.message or wrong in ("", "x")
    assert (folder / "keystore.json").read_bytes() == before
    open_store(folder, passphrase=PASSPHRASE).close()


def test_no_passphrase_is_asked_for(folder: Path) -> None:
    fill(folder, PASSPHRASE)
    with pytest.raises(PassphraseNeeded):
        open_store(folder)


def test_a_store_with_a_key_file_never_asks_for_a_passphrase(folder: Path) -> None:
    fill(folder)
    asked: list[int] = []

    def passphrase() -> str:
        asked.append(1)
        return PASSPHRASE

    FileBackend.open(folder, clock=ManualClock(), passphrase=passphrase).close()
    assert not asked


def test_two_ways_to_type_the_same_passphrase_are_the_same(folder: Path) -> None:
    fill(folder, unicodedata.normalize("NFC", "zwölf Schlüssel"))
    open_store(folder, passphrase=unicodedata.normalize("NFD", "zwölf Schlüssel")).close()


def test_a_short_passphrase_may_not_protect_a_new_store(folder: Path) -> None:
    with pytest.raises(WrongPassphrase, match="at least 8"):
        fill(folder, "1234567")
    assert [path.name for path in folder.iterdir()] == ["keystore.lock"]


def test_a_passphrase_that_cannot_be_asked_leaves_nothing(folder: Path) -> None:
    def broken() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FileBackend.open(folder, clock=ManualClock(), passphrase=broken)
    assert [path.name for path in folder.iterdir()] == ["keystore.lock"]


def test_the_default_cost_is_128_mib() -> None:
    cost = ScryptCost()
    assert 128 * 2**cost.log2_n * cost.r == 128 * 2**20
    with root_from_passphrase(PASSPHRASE, bytes(32), cost) as root:
        assert bytes(root.view()) != bytes(32)


@pytest.mark.parametrize(
    "cost",
    [
        {"log2_n": 40},
        {"log2_n": 21},
        {"log2_n": 14},
        {"log2_n": 1},
        {"log2_n": -1},
        {"log2_n": 10**18},
        {"r": 2**30},
        {"r": 0},
        {"r": 17},
        {"log2_n": 20, "r": 16},
        {"p": 0},
        {"p": 5},
        {"p": 2**40},
        {"log2_n": 17.0},
        {"log2_n": True},
        {"log2_n": "17"},
        {"salt": "00"},
        {"salt": None},
    ],
)
def test_a_hostile_cost_is_refused_before_it_is_paid(folder: Path, cost: dict[str, object]) -> None:
    fill(folder, PASSPHRASE)
    path = folder / "keystore.json"
    store = json.loads(path.read_bytes())
    store["root"] = store["root"] | {"log2_n": 17} | cost
    path.write_bytes(canonical(store) + b"\n")
    asked: list[int] = []

    def passphrase() -> str:
        asked.append(1)
        return PASSPHRASE

    with pytest.raises(KeystoreDamaged, match=r"keystore\.json"):
        FileBackend.open(folder, clock=ManualClock(), passphrase=passphrase)
    assert not asked


def test_a_store_made_cheap_for_tests_does_not_open_otherwise(folder: Path) -> None:
    fill(folder, PASSPHRASE)
    with pytest.raises(KeystoreDamaged, match="scrypt"):
        FileBackend.open(folder, clock=ManualClock(), passphrase=lambda: PASSPHRASE)
    assert CHEAP.log2_n < 15


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644, 0o700 | 0o010])
@pytest.mark.parametrize("name", ["root.key", "keystore.json", "tombstones.json"])
def test_a_loose_file_mode_is_refused(folder: Path, name: str, mode: int) -> None:
    fill(folder)
    with open_store(folder) as backend:
        backend.apply_tombstones(["dataset/x#1"])
    (folder / name).chmod(mode)
    with pytest.raises(LooseKeyFile, match=name) as error:
        open_store(folder)
    assert f"{mode:04o}" in error.value.message
    assert "chmod 600" in error.value.hint
    (folder / name).chmod(0o600)
    open_store(folder).close()


def test_a_root_key_of_another_user_is_refused(folder: Path) -> None:
    fill(folder)
    if os.geteuid() == 0:
        os.chown(folder / "root.key", 12345, -1)
    else:
        (folder / "root.key").unlink()
        (folder / "root.key").symlink_to("/etc/passwd")
    with pytest.raises(LooseKeyFile, match=r"belongs to user (12345|0),"):
        open_store(folder)


@pytest.mark.parametrize("name", ["root.key", "keystore.json"])
@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_refused(folder: Path, name: str, put: Callable[[Path], None]) -> None:
    fill(folder)
    (folder / name).unlink()
    put(folder / name)
    with pytest.raises(LooseKeyFile, match="not a plain file"):
        open_store(folder)


DAMAGED_ROOTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "too long": lambda content: content + b"\0",
    "another version": lambda content: content[:7] + b"\x02" + content[8:],
    "a bit flipped in the root": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "text": lambda content: b"correct horse battery staple",
}


@pytest.mark.parametrize("damage", DAMAGED_ROOTS.values(), ids=DAMAGED_ROOTS.keys())
def test_a_damaged_root_key_is_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    fill(folder)
    path = folder / "root.key"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WrongRootKey, match=r"root\.key"):
        open_store(folder)


def test_the_root_key_of_another_store_is_refused(folder: Path, tmp_path: Path) -> None:
    fill(folder)
    fill(tmp_path / "other")
    (folder / "root.key").write_bytes((tmp_path / "other/root.key").read_bytes())
    with pytest.raises(WrongRootKey, match="another key store"):
        open_store(folder)


def test_a_missing_root_key_is_named(folder: Path) -> None:
    fill(folder)
    (folder / "root.key").unlink()
    with pytest.raises(WrongRootKey, match="missing"):
        open_store(folder)


def test_a_lost_key_store_is_not_replaced_by_a_new_one(folder: Path) -> None:
    fill(folder)
    (folder / "keystore.json").unlink()
    with pytest.raises(KeystoreMissing):
        open_store(folder)
    assert not (folder / "keystore.json").exists()


def test_a_key_store_that_vanishes_while_open_is_named(folder: Path) -> None:
    backend = open_store(folder)
    (folder / "keystore.json").unlink()
    with pytest.raises(KeystoreMissing):
        backend.list_keks()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "keys",
        "/keys",
        "file:",
        "file://host/keys",
        "file:keys",
        "vault://x",
        "file:///k?a=1",
        "file:///k#1",
    ],
)
def test_a_url_that_names_no_back_end_is_refused(url: str) -> None:
    with pytest.raises(BadKeysUrl, match="back end"):
        open_backend(url, clock=ManualClock(), passphrase=None)


def test_a_url_may_name_a_folder_with_spaces(tmp_path: Path) -> None:
    backend = open_backend(f"file://{tmp_path}/my%20keys", clock=ManualClock(), passphrase=None)
    assert backend.list_keks() == ()
    assert (tmp_path / "my keys/keystore.json").exists()
