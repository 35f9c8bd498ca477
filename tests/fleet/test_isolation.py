"""Network isolation: what the probe finds inside and outside, and that no key is leased without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.core.events import EventKind
from stoker.core.isolation import NO_LOOPBACK, IsolationState, listening_outside, probe
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Phase
from stoker.keys.agent import KeyAgent
from stoker.spec.run import IsolationPolicy
from support import fake_house
from support.fake_house import FakeErrands, make_folder, supervise, told
from support.without_namespaces import WITHOUT_NAMESPACES

ISOLATE = """
import ctypes, encodings.idna, json, os, sys
from stoker.core.isolation import Outside, isolate, probe
from stoker.core.result import plain
if sys.argv[4] == "nobody":
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
made = isolate()
print(json.dumps([plain(made), plain(probe(Outside(int(sys.argv[1]), *sys.argv[2:4])))]))
"""
"""Run with a port, a name, a path and a user. `prctl(PR_SET_DUMPABLE, 1)` undoes what changing it does."""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run")


def isolated_and_probed(user: str, before: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    with listening_outside() as outside:
        where = (str(outside.port), outside.name, outside.path)
        command = [*before, sys.executable, "-c", ISOLATE, *where, user]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made, found = json.loads(shown)
    return made, found


def test_a_process_that_is_not_isolated_is_found_out() -> None:
    with listening_outside() as outside:
        found = probe(outside)
    assert found.state is IsolationState.OPEN
    assert "the machine's loopback" in found.reason
    assert "an abstract socket" in found.reason


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_an_isolated_process_finds_no_way_out(user: str) -> None:
    made, found = isolated_and_probed(user, [])
    assert made["state"] == "isolated"
    assert found["state"] == "isolated"


DEAD_LOOPBACK = """
import json, subprocess
from stoker.core.isolation import isolate, probe
from stoker.core.result import plain
made = isolate()
subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
print(json.dumps([plain(probe(None, begun=begun)) for begun in (False, True)]))
"""


def test_a_loopback_that_dies_under_ranks_is_told_and_is_no_way_out() -> None:
    command = [sys.executable, "-c", DEAD_LOOPBACK]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, since = json.loads(done.stdout)
    assert before["state"] == "open"
    assert (since["state"], since["reason"]) == ("isolated", NO_LOOPBACK)


def test_a_platform_that_refuses_is_told_as_that() -> None:
    made, found = isolated_and_probed("root", WITHOUT_NAMESPACES)
    assert made["state"] == "refused"
    assert "refused" in made["reason"]
    assert found["state"] == "open"


def test_ranks_run_isolated_and_the_verdict_says_so(folder: RunFolder) -> None:
    verdict = supervise(FakeErrands(folder), isolation=IsolationPolicy.REQUIRED)
    assert verdict.outcome is Phase.FINISHED
    assert verdict.isolation.state is IsolationState.ISOLATED
    probed = told(folder, EventKind.ISOLATION_PROBED)
    assert {each.text("state") for each in probed} == {"isolated"}


def test_an_isolated_rank_has_no_power_to_leave(folder: RunFolder) -> None:
    deeds = [{"do": "show", "rank": 0, "at_step": "start", "attempt": 1}]
    supervise(FakeErrands(folder, deeds=deeds), isolation=IsolationPolicy.REQUIRED)
    shown = json.loads(folder.rank_log(1, 0).read_text().splitlines()[0])
    powers = dict(line.split(":\t") for line in shown["capabilities"])
    assert {name: int(mask, 16) for name, mask in powers.items()} == dict.fromkeys(powers, 0)
    assert {"CapEff", "CapPrm", "CapBnd"} <= set(powers)
    assert shown["networks"] == ["lo"]


def test_the_lease_is_given_only_after_the_probe(folder: RunFolder) -> None:
    seen: list[list[EventKind]] = []

    def lease(attempt: int) -> KeyAgent | None:
        seen.append([event.kind for event in told(folder, *EventKind)])
        return None

    supervise(FakeErrands(folder, keys=lease), isolation=IsolationPolicy.REQUIRED)
    assert seen == [[EventKind.RUN_STARTED, EventKind.ATTEMPT_STARTED, EventKind.ISOLATION_PROBED]]


@pytest.mark.parametrize(
    ("policy", "exit_code", "said"), [("required", 1, "isolation-refused\n"), ("when_possible", 0, "")]
)
def test_where_the_platform_refuses_no_rank_starts_unless_that_is_allowed(
    folder: RunFolder, policy: str, exit_code: int, said: str
) -> None:
    settings = json.dumps({"isolation": policy, "world_size": 1})
    command = [*WITHOUT_NAMESPACES, sys.executable, fake_house.__file__, str(folder.path), settings]
    tests = str(Path(fake_house.__file__).parent.parent)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": tests}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (exit_code, said)
    (probed,) = told(folder, EventKind.ISOLATION_PROBED)
    assert probed.text("state") == "refused"
    assert bool(told(folder, EventKind.RANK_SPAWNED)) == (exit_code == 0)
