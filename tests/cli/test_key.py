"""`stoker key`: rotating, suspending, destroying, withdrawing, sweeping and proving, each as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.keys.open import open_backend
from stoker.keys.refs import Purpose


def stoker(home: Path, who: str, *arguments: str, rc: int = 0) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("STOKER_")},
        "STOKER_HOME": str(home),
        "STOKER_IDENTITY": who,
    }
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=home,
    )
    assert done.returncode == rc, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_commands_destroy_withdraw_and_prove(tmp_path: Path) -> None:
    home = tmp_path / "home"
    stoker_home = Home(home).prepare()
    for name, role in (("ada", "researcher"), ("bob", "reviewer"), ("eve", "operator")):
        stoker(home, "", "identity", "create", name, "--role", role)
    backend = open_backend(stoker_home.keys_dir.as_uri(), clock=SystemClock(), passphrase=None)
    kek = str(backend.create_kek("source/notes/v1", Purpose.SOURCE, expires_s=None))
    stoker(home, "ada", "key", "destroy", kek, "--window", "1", rc=240)
    stoker(home, "ada", "key", "destroy", kek)
    pending = stoker(home, "bob", "key", "destroy", kek, "--approve")
    assert "until then it can be withdrawn" in pending
    assert "is destroyed at" in stoker(home, "ada", "key", "ls")
    stoker(home, "eve", "key", "destroy", kek, "--withdraw", rc=248)
    assert "active" in stoker(home, "bob", "key", "destroy", kek, "--withdraw")
    stoker(home, "ada", "key", "destroy", kek)
    stoker(home, "bob", "key", "destroy", kek, "--emergency", rc=241)
    stoker(home, "bob", "key", "destroy", kek, "--emergency", "--reason", "a leak")
    swept = json.loads(stoker(home, "eve", "key", "sweep", "--json"))
    assert (swept["kind"], swept["data"]["failed"]) == ("key-sweep", [])
    proof = json.loads(stoker(home, "eve", "key", "prove", kek, "--json"))["data"]
    assert {each["outcome"] for each in proof["trials"]} == {"refused", "absent"}
    (row,) = json.loads(stoker(home, "ada", "key", "show", kek, "--json"))["data"]["keys"]
    assert (row["state"], row["proof"]) == ("destroyed", "holds")


def test_the_commands_rotate_suspend_and_resume(tmp_path: Path) -> None:
    home = tmp_path / "home"
    stoker_home = Home(home).prepare()
    for name, role in (("ada", "researcher"), ("eve", "operator")):
        stoker(home, "", "identity", "create", name, "--role", role)
    backend = open_backend(stoker_home.keys_dir.as_uri(), clock=SystemClock(), passphrase=None)
    backend.create_kek("source/notes/v1", Purpose.SOURCE, expires_s=None)
    assert "source/notes/v1#2" in stoker(home, "eve", "key", "rotate", "source/notes/v1")
    told = json.loads(stoker(home, "eve", "key", "rewrap", "source/notes/v1#1", "--json"))["data"]
    assert (told["to"], told["streams"]) == ("source/notes/v1#2", 0)
    stoker(home, "eve", "key", "suspend", "source/notes/v1#2", "--reason", "an odd sign")
    assert "suspended" in stoker(home, "ada", "key", "ls")
    stoker(home, "eve", "key", "resume", "source/notes/v1#2")
    stoker(home, "eve", "key", "compromise", "source/notes/v1#1", "--reason", "a lost laptop")
    assert "compromised, says eve" in stoker(home, "ada", "key", "ls")
