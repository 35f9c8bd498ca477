"""`stoker.toml` moves ledger, store and keys; absent, all are in STOKER_HOME."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.core.errors import ConfigError
from stoker.core.home import Home
from stoker.core.settings import load_settings


def test_without_a_file_everything_is_in_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    settings = load_settings(home, tmp_path).value
    assert settings.ledger_url(home) == f"sqlite:///{home.root}/ledger.db"
    assert settings.store_url(home) == f"file://{home.root}/store"
    assert settings.keys_url(home) == f"file://{home.root}/keys"


def test_the_projects_file_wins_over_the_homes(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    home.settings_path.write_text(
        '[store]\nurl = "file:///a"\n[keys]\nurl = "file:///k"\n[cache]\nlimit_bytes = 5\n'
    )
    (tmp_path / "stoker.toml").write_text('[store]\nurl = "file:///b"\n')
    loaded = load_settings(home, tmp_path)
    assert loaded.value.store_url(home) == "file:///b"
    assert loaded.value.keys_url(home) == "file:///k"
    assert loaded.value.cache.limit_bytes == 5
    assert loaded.origins["store.url"] == str(tmp_path / "stoker.toml")


def test_a_misspelt_setting_is_named_with_its_file(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    home.settings_path.write_text("[stor]\nurl = 'x'\n")
    with pytest.raises(ConfigError, match=r"stoker\.toml: stor: unknown key; did you mean 'store'\?"):
        load_settings(home, tmp_path)
