"""A home whose keys are in a key vault, by `[keys] url` and the real commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.intake.errors import DatasetEnded
from stoker.keys.errors import VaultRefused, WrongRootKey
from support.cli_home import PREPARE, CliHome, write_texts
from support.openbao import MOUNT, Bao, openbao
from support.softhsm import soft_token


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as running:
        yield running


def home_with_keys_at(place: Path, url: str, environment: dict[str, str] | None = None) -> CliHome:
    home = CliHome(place / "place", environment or {})
    home.place.mkdir()
    home.root.mkdir(0o700)
    (home.root / "stoker.toml").write_text(f"[keys]\nurl = {json.dumps(url)}\n")
    write_texts(home.texts)
    for name, role in (("asker", "researcher"), ("decider", "reviewer")):
        home.stoker("identity", "create", name, "--role", role, by="")
    return home


def prepared(home: CliHome) -> list[dict[str, str]]:
    """All the way to a dataset; the keys as `key ls` shows them."""
    home.stoker("import", "notes", "texts")
    home.stoker("review", "scan", "notes")
    home.approve(home.data("review", "request", "notes", "--purpose", "research")["reviews"][0])
    home.stoker(*PREPARE)
    assert home.log_holds()
    return list(home.data("key", "ls")["keys"])


def test_a_home_whose_keys_are_in_openbao(bao: Bao, tmp_path: Path) -> None:
    home = home_with_keys_at(tmp_path, bao.url)
    keys = prepared(home)
    assert {each["kek"].split("/")[0] for each in keys} >= {"source", "dataset"}
    assert {each["vault"] for each in keys} == {f"openbao {bao.origin}/{MOUNT}"}
    held = bao.ask("LIST", f"{MOUNT}/keys")[1]["data"]["keys"]
    assert len(held) == len(keys) + 1  # and the registry's root
    assert not (home.root / "keys/root.key").exists()

    dataset = next(each["kek"] for each in keys if each["kek"].startswith("dataset/"))
    home.stoker("dataset", "sample", "text", by="decider")
    home.stoker("key", "destroy", dataset, by="asker")
    home.stoker("key", "destroy", dataset, "--emergency", "--reason", "consent withdrawn", by="decider")
    assert len(bao.ask("LIST", f"{MOUNT}/keys")[1]["data"]["keys"]) == len(held) - 1
    home.refused(DatasetEnded, "dataset", "sample", "text", by="decider")


def test_a_home_whose_token_is_no_longer_good_says_so(bao: Bao, tmp_path: Path) -> None:
    token = bao.new_token(tmp_path / "token")
    home = home_with_keys_at(tmp_path, bao.url_with(tmp_path / "token"))
    assert bao.ask("POST", "auth/token/revoke", {"token": token})[0] == 204
    said = home.refused(VaultRefused, "import", "notes", "texts")
    assert str(tmp_path / "token") in said
    assert token not in said


def test_a_home_whose_keys_are_in_a_pkcs11_token(tmp_path: Path) -> None:
    with soft_token(tmp_path / "hsm") as token:
        home = home_with_keys_at(tmp_path, f"{token.url}&registry={tmp_path / 'registry'}", token.environment)
        keys = prepared(home)
        assert {each["vault"] for each in keys} == {"pkcs11 token stoker test"}
        assert not (home.root / "keys/keystore.json").exists()
        assert (tmp_path / "registry/keystore.json").exists()
        home.stoker("dataset", "sample", "text", by="decider")


def test_a_registry_over_a_vault_is_no_file_key_store(bao: Bao, tmp_path: Path) -> None:
    home = home_with_keys_at(tmp_path, bao.url)
    home.stoker("import", "notes", "texts")
    (home.root / "stoker.toml").unlink()
    home.refused(WrongRootKey, "key", "ls")
