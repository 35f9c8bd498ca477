"""A key store that was changed outside Stoker is refused, and the entry is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.core.errors import StokerError
from stoker.keys.errors import KeystoreDamaged, KeystoreVersion, WrongRootKey
from stoker.keys.refs import Purpose
from support.key_stores import SCOPE, open_store
from support.keystore_reader import canonical

Store = dict[str, Any]
KEK, OTHER = f"kek/{SCOPE}#1", f"kek/{SCOPE}#2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "keys"
    with open_store(folder) as backend:
        first = backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        backend.signer("manifest")
        shutil.copytree(folder, folder.with_name("older"))
        backend.deactivate(first)
        backend.apply_tombstones(["dataset/gone#1"])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "keys"))


def rewrite(path: Path, change: Callable[[Store], object]) -> None:
    store = json.loads(path.read_bytes())
    change(store)
    path.write_bytes(canonical(store) + b"\n")


def older(made: Path) -> Store:
    found: Store = json.loads((made.with_name("older") / "keystore.json").read_bytes())
    return found


def exchange(store: Store) -> None:
    entries = store["entries"]
    entries[KEK], entries[OTHER] = entries[OTHER], entries[KEK]


CHANGES: dict[str, tuple[Callable[[Store], object], str]] = {
    "a state set back": (lambda s: s["entries"][KEK]["life"].update(state="active"), KEK),
    "an expiry taken off": (lambda s: s["entries"][OTHER].update(expires_s=9e9), OTHER),
    "a requester renamed": (lambda s: s["entries"][OTHER]["life"].update(requested_by="mallory"), OTHER),
    "a handle of another": (
        lambda s: s["entries"][OTHER].update(handle=s["entries"][KEK]["handle"]),
        OTHER,
    ),
    "two entries exchanged": (exchange, KEK),
    "a signer's public key": (
        lambda s: s["entries"]["signer/manifest"].update(public_key="00" * 32),
        "signer",
    ),
    "an entry cut": (lambda s: s["entries"].pop(OTHER), OTHER),
    "a tombstone cut": (lambda s: s["entries"].pop("tombstone/dataset/gone#1"), "dataset/gone#1"),
    "an entry added": (lambda s: s["entries"].update({"kek/dataset/new#1": {}}), "kek/dataset/new#1"),
    "an unknown member": (lambda s: s["entries"][KEK].update(note="hello"), KEK),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_entry_is_named(folder: Path, change: Callable[[Store], object], named: str) -> None:
    rewrite(folder / "keystore.json", change)
    with pytest.raises(KeystoreDamaged) as error:
        open_store(folder)
    assert named in error.value.message
    assert str(folder / "keystore.json") in error.value.message


def test_an_entry_out_of_an_older_version_is_named(folder: Path, made: Path) -> None:
    rewrite(
        folder / "keystore.json", lambda store: store["entries"].update({KEK: older(made)["entries"][KEK]})
    )
    with pytest.raises(KeystoreDamaged, match="rolled back") as error:
        open_store(folder)
    assert KEK in error.value.message


HEADS: dict[str, Callable[[Store], object]] = {
    "the index": lambda s: s["index"].update({KEK: "00" * 32}),
    "an index entry cut with its entry": lambda s: (s["index"].pop(OTHER), s["entries"].pop(OTHER)),
    "the generation": lambda s: s.update(generation=s["generation"] + 1),
    "the authentication code": lambda s: s.update(mac="00" * 32),
    "an authentication code of another type": lambda s: s.update(mac=None),
}


@pytest.mark.parametrize("change", HEADS.values(), ids=HEADS.keys())
def test_a_changed_head_is_refused(folder: Path, change: Callable[[Store], object]) -> None:
    rewrite(folder / "keystore.json", change)
    with pytest.raises(KeystoreDamaged, match="head or index"):
        open_store(folder)


def test_an_entry_and_its_index_rolled_back_together_are_refused(folder: Path, made: Path) -> None:
    old = older(made)

    def roll_back(store: Store) -> None:
        store["entries"][KEK], store["index"][KEK] = old["entries"][KEK], old["index"][KEK]

    rewrite(folder / "keystore.json", roll_back)
    with pytest.raises(KeystoreDamaged, match="head or index"):
        open_store(folder)


def test_another_id_does_not_fit_the_root(folder: Path) -> None:
    rewrite(folder / "keystore.json", lambda store: store.update(id="00" * 16))
    with pytest.raises(WrongRootKey):
        open_store(folder)


@pytest.mark.parametrize("version", [0, 3, "1", True, None, 1.0, 10**30])
@pytest.mark.parametrize("name", ["keystore.json", "tombstones.json"])
def test_an_unknown_version_is_refused(folder: Path, name: str, version: object) -> None:
    rewrite(folder / name, lambda store: store.update(version=version))
    with pytest.raises(KeystoreVersion, match=name):
        open_store(folder)


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "without its newline": lambda data: data[:-1],
    "with a second newline": lambda data: data + b"\n",
    "with spaces": lambda data: data.replace(b":", b": "),
    "with a duplicate key": lambda data: data.replace(b'"version":', b'"version":1,"version":'),
    "with another member": lambda data: data.replace(b'"version":', b'"note":1,"version":'),
    "zeros": lambda data: bytes(len(data)),
    "not UTF-8": lambda data: b"\xff" + data,
    "a list": lambda data: b"[]\n",
    "a deep list": lambda data: b"[" * 200_000,
    "a huge number": lambda data: b"9" * 100_000,
    "no number": lambda data: re.sub(b'"version":.', b'"version":NaN', data),
    "another magic": lambda data: data.replace(b"stoker-", b"bunker-"),
    "another file's magic": lambda data: data.replace(b'magic":"stoker-', b'magic":"x-stoker-'),
}


@pytest.mark.parametrize("name", ["keystore.json", "tombstones.json"])
@pytest.mark.parametrize("damage", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_cut_or_garbled_file_is_refused(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = folder / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises((KeystoreDamaged, KeystoreVersion), match=name):
        open_store(folder)
    assert path.read_bytes() == damaged


def test_an_absurdly_large_file_is_refused_unread(folder: Path) -> None:
    with (folder / "keystore.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(KeystoreDamaged, match="at most"):
        open_store(folder)


@pytest.mark.parametrize("change", [{"mac": "00" * 32}, {"id": "00" * 16}, {"tombstones": {}}])
def test_changed_tombstones_are_refused(folder: Path, change: Store) -> None:
    rewrite(folder / "tombstones.json", lambda store: store.update(change))
    with pytest.raises(KeystoreDamaged, match=r"tombstones\.json"):
        open_store(folder)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_flipped_byte_is_refused(made: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["keystore.json", "tombstones.json", "root.key"]))
    path = made / name
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(flipped)
        with pytest.raises(StokerError) as error:
            open_store(made)
        assert name in error.value.message
    finally:
        path.write_bytes(whole)
    open_store(made).close()
