"""Attacks that cross rooms, each on a real house, each named by its case where it has one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli import main as cli
from stoker.cli.secret_files import passphrase_in
from stoker.keys.errors import LooseKeyFile, PassphraseNeeded

WORDS = "correct horse battery staple"
SECRET = "Jane Roe, born 1970, jane.roe@example.org"


def stoker(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker.cli", *arguments],
        capture_output=True,
        text=True,
        env={"STOKER_HOME": str(home), "PATH": "/usr/bin:/bin", **environment},
        check=False,
    )


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(WORDS + "\n")
    path.chmod(0o600)
    return path


def create_ada(home: Path, passphrase: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("identity", "create", "ada", "--role", "researcher")
    return stoker(home, *arguments, STOKER_PASSPHRASE_FILE=str(passphrase))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_atk_078_a_passphrase_file_that_others_may_touch_is_refused(
    tmp_path: Path, passphrase: Path, mode: int
) -> None:
    passphrase.chmod(mode)
    done = create_ada(tmp_path / "home", passphrase)
    assert done.returncode == LooseKeyFile.exit_code
    assert str(passphrase) in done.stderr
    assert WORDS not in done.stdout + done.stderr


def test_atk_078_a_passphrase_file_of_another_user_is_refused(
    passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert passphrase_in(passphrase) == WORDS
    if os.geteuid() == 0:
        os.chown(passphrase, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(LooseKeyFile):
        passphrase_in(passphrase)


def test_atk_078_a_passphrase_comes_through_a_pipe_and_is_not_endless(
    tmp_path: Path, passphrase: Path
) -> None:
    home = tmp_path / "home"
    assert create_ada(home, passphrase).returncode == 0
    reader, writer = os.pipe()
    os.write(writer, WORDS.encode())
    os.close(writer)
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli", "key", "ls"],
        capture_output=True,
        text=True,
        env={"STOKER_HOME": str(home), "STOKER_PASSPHRASE_FILE": f"/dev/fd/{reader}"},
        pass_fds=[reader],
        check=False,
    )
    os.close(reader)
    assert done.returncode == 0, done.stderr
    passphrase.write_text(WORDS * 1000)
    assert create_ada(home, passphrase).returncode == PassphraseNeeded.exit_code
    assert create_ada(home, Path("/dev/zero")).returncode == LooseKeyFile.exit_code


def test_atk_078_a_mistake_of_ours_does_not_quote_the_data_it_was_made_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stumble(*_: object, **__: object) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise ValueError(f"cannot parse {SECRET!r} \x1b[31m") from cause

    monkeypatch.setattr(cli.cli, "main", stumble)
    for arguments in (["verify"], ["verify", "--json"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == cli.InternalError.exit_code
        said = "".join(capsys.readouterr())
        assert "ValueError" in said
        assert "stumble" in said
        assert "Jane" not in said
        assert "\x1b" not in said
