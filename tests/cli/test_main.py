"""`stoker` itself: quick help, exit codes, errors as lines and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli.main import COMMANDS, printable

HEAVY = (
    "torch",
    "numpy",
    "sqlalchemy",
    "rich",
    "starlette",
    "cryptography",
    "obstore",
    "tokenizers",
    "alembic",
)


def stoker(
    *arguments: str, home: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker.cli", *arguments],
        capture_output=True,
        text=True,
        env={"STOKER_HOME": str(home), "PATH": "/usr/bin:/bin", **(environment or {})},
        check=False,
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from stoker.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str, tmp_path: Path) -> None:
    done = stoker(name, "--help", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: stoker")


def test_help_works_without_torch_in_a_bare_environment(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'safetensors', 'tokenizers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import importlib, pkgutil, stoker\n"
        "skip = ('stoker.train', 'stoker.cli.__main__', 'stoker.ledger.migrations')\n"
        "for module in pkgutil.walk_packages(stoker.__path__, 'stoker.'):\n"
        "    if not module.name.startswith(skip):\n"
        "        importlib.import_module(module.name)\n"
        "from stoker.cli.main import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: stoker" in done.stdout


def test_an_unknown_command_is_usage_and_names_the_nearest(tmp_path: Path) -> None:
    done = stoker("reveiw", home=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'review'?" in done.stderr
    as_json = stoker("reveiw", "--json", home=tmp_path)
    assert json.loads(as_json.stdout)["error"]["id"] == "usage"


def test_an_error_has_its_own_exit_code_and_a_hint(tmp_path: Path) -> None:
    done = stoker("identity", "create", "../alice", "--role", "researcher", home=tmp_path / "h")
    assert done.returncode == 10
    assert done.stdout == ""
    assert done.stderr.startswith("error: '../alice' is no identity name.")
    assert "hint:" in done.stderr
    as_json = stoker("identity", "create", "../alice", "--role", "researcher", "--json", home=tmp_path / "h")
    body = json.loads(as_json.stdout)
    assert (body["ok"], body["error"]["id"]) == (False, "bad-name")


def test_identities_are_made_once_and_listed(tmp_path: Path) -> None:
    home = tmp_path / "h"
    made = stoker("identity", "create", "alice", "--role", "researcher", "--json", home=home)
    assert json.loads(made.stdout)["kind"] == "identities"
    again = stoker("identity", "create", "alice", "--role", "admin", home=home)
    assert again.returncode >= 10
    listed = stoker("identity", "ls", home=home)
    assert "alice" in listed.stdout
    assert "researcher" in listed.stdout


def test_names_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b[31mb\r\nc") == "a\\x1b[31mb\\r\nc"


def test_a_mistake_of_ours_is_told_as_one_with_its_traceback() -> None:
    program = (
        "import stoker.cli.identity as identity\n"
        "def broken(*arguments, **options):\n    raise ZeroDivisionError('quicksilver')\n"
        "identity.ls.callback = broken\n"
        "from stoker.cli.main import main\n"
        "main(['identity', 'ls', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 171
    assert json.loads(done.stdout)["error"]["id"] == "internal-error"
    assert "in broken" in done.stderr
    assert "ZeroDivisionError" in done.stdout
    assert "quicksilver" not in done.stderr + done.stdout, "the text of an exception may hold data"
