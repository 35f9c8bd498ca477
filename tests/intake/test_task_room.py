"""A task's process on a node: closed off before it opens a key, or refused before that, or told as open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.core.isolation import IsolationState
from stoker.intake.errors import WorkerLost
from stoker.intake.task_room import TaskRoom, in_order, rooms_told
from support.without_namespaces import WITHOUT_NAMESPACES

ENTER = """
import json, os, sys
from pathlib import Path
from stoker.core.errors import StokerError
from stoker.core.isolation import Isolation, IsolationState
from stoker.intake import task_room
from stoker.intake.task_room import enter_room
if "NO_NAMESPACES" in os.environ:
    task_room.isolate = lambda **_: Isolation(IsolationState.REFUSED, "this user may make none")
try:
    room = enter_room(Path(sys.argv[1]), sys.argv[1:])
except StokerError as error:
    print(json.dumps({"refused": error.id, "message": error.message}))
    sys.exit(0)
if room is None:
    sys.exit(5)
print(room.told())
print(json.dumps([name for _, name in __import__("socket").if_nameindex()]))
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The job of a task in a home that holds nothing but its settings."""
    (tmp_path / "home").mkdir(mode=0o700)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"home": str(tmp_path / "home"), "project": str(tmp_path / "home")}))
    return path


def settings(job: Path, text: str) -> None:
    (job.parent / "home/stoker.toml").write_text(text)


def entered(job: Path, before: list[str] | None = None) -> list[str]:
    """What a fresh process says that closes itself off as a task does."""
    program = job.parent / "enter.py"
    program.write_text(ENTER)
    command = [*(before or []), sys.executable, str(program), str(job), "0", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_task_whose_home_is_a_folder_has_no_network_at_all(job: Path) -> None:
    said, _ = entered(job)
    (room,) = rooms_told(said)
    assert (room.state, room.reason) == (IsolationState.ISOLATED, "no network at all; no way out was found")


@pytest.mark.parametrize("url", ["s3://bucket/house", "az://house/place"])
def test_a_task_with_a_store_elsewhere_closes_off_what_reads_and_says_so(job: Path, url: str) -> None:
    settings(job, f'[store]\nurl = "{url}"\n[preparing]\nisolation = "required"\n')
    said, _ = entered(job)
    (room,) = rooms_told(said)
    assert room.state is IsolationState.ISOLATED
    scheme = url.partition(":")[0]
    assert room.reason.endswith(
        f"where documents are read; what opens and seals reaches the store by {scheme}"
    )


def test_where_nothing_closes_it_is_told_as_open_and_where_closing_is_required_no_key_is_opened(
    job: Path,
) -> None:
    said, _ = entered(job, WITHOUT_NAMESPACES)
    (room,) = rooms_told(said)
    assert room.state is IsolationState.REFUSED
    assert "a network namespace was refused" in room.reason
    for store in ("", '[store]\nurl = "s3://bucket/house"\n'):
        settings(job, f'{store}[preparing]\nisolation = "required"\n')
        (refused,) = map(json.loads, entered(job, WITHOUT_NAMESPACES))
        assert refused["refused"] == WorkerLost.id
        assert "would have a network and must have none" in refused["message"]


def test_a_worker_that_is_refused_ends_with_its_code_before_it_looks_for_keys(job: Path) -> None:
    settings(job, '[preparing]\nisolation = "required"\n')
    command = [sys.executable, "-m", "stoker.intake.task_worker", str(job), "0", "1"]
    done = subprocess.run([*WITHOUT_NAMESPACES, *command], capture_output=True, text=True, check=False)
    assert done.returncode == WorkerLost.exit_code
    assert json.loads(done.stderr)["id"] == WorkerLost.id
    assert {path.name for path in (job.parent / "home").iterdir()} == {"stoker.toml"}


def test_where_users_may_make_no_namespace_a_task_goes_on_in_bubblewrap(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_NAMESPACES", "1")
    said, networks = entered(job)
    (room,) = rooms_told(said)
    assert room.state is IsolationState.ISOLATED, room.reason
    assert json.loads(networks) == ["lo"]


def test_what_tasks_tell_is_bounded_and_what_is_none_is_passed_over() -> None:
    far = TaskRoom("n2", IsolationState.ISOLATED, "closed")
    near = TaskRoom("n1", IsolationState.REFUSED, "r" * 1_000)
    lines = ["slurmstepd: error", "{}", '{"room": 3}', '{"room": ["n", "shut", ""]}', far.told(), near.told()]
    found = in_order(rooms_told("\n".join(lines)))
    assert [(room.node, len(room.reason)) for room in found] == [("n1", 300), ("n2", 6)]
