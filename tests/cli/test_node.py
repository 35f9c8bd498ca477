"""`stoker node`: the commands over a home, with the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.fleet.nodes.errors import BadJobHistory, NodeActRefused, NodeNeverSeen
from stoker.ledger.errors import PermissionRefused
from support.warm_cli import Commands, warm_commands


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with warm_commands() as found:
        yield found


class Fleet:
    def __init__(self, commands: Commands, root: Path) -> None:
        self.commands, self.root = commands, root
        for name, role in (("eve", "operator"), ("ada", "researcher")):
            self.run("identity", "create", name, "--role", role, by=None)

    def run(self, *words: str, code: int = 0, by: str | None = "eve") -> Any:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.root), "STOKER_HOME": str(self.root)}
        who = ("--as", by) if by else ()
        done = self.commands.run((*words, *who, "--json"), environment, self.root.parent)
        assert done.code == code, done.out + done.err
        return done.data if code in (EXIT_DONE, EXIT_FINDING) else None

    def settings(self, text: str) -> None:
        path = self.root / "stoker.toml"
        path.write_text(f"[nodes]\nlimit_s = 4.0\n{text}")
        path.chmod(0o600)


@pytest.fixture
def fleet(commands: Commands, tmp_path: Path) -> Fleet:
    return Fleet(commands, tmp_path / "home")


def state_of(found: Any, name: str) -> str:
    return next(each["state"] for each in found["results"] if each["name"] == name)


def test_a_check_tells_every_finding_and_leaves_nothing_behind(fleet: Fleet) -> None:
    fleet.settings("cpus = 4096")
    before = fleet.run("audit", "log")
    found = fleet.run("node", "check", "--node", "n1", code=EXIT_FINDING, by=None)
    assert (found["node"], found["recorded_as"]) == ("n1", "")
    assert state_of(found, "cpu_count") == "fail"
    assert state_of(found, "peer_bandwidth") == "not present"
    assert len(found["results"]) >= 30
    assert fleet.run("audit", "log") == before


def test_a_recorded_check_drains_and_a_person_overrules_it(fleet: Fleet) -> None:
    fleet.settings("cpus = 4096")
    fleet.run("node", "check", "--record", "--node", "n1", by="ada", code=PermissionRefused.exit_code)
    found = fleet.run("node", "check", "--record", "--node", "n1", code=EXIT_FINDING)
    assert found["recorded_as"] in ("draining", "drained")
    (row,) = fleet.run("node", "ls")["nodes"]
    assert any("4096 are expected" in each["evidence"] for each in row["reasons"])
    assert row["takes_work"] is False
    found = fleet.run("node", "check", "--record", "--idle", "--node", "n1", code=EXIT_FINDING)
    assert found["recorded_as"] == "drained"
    overruled = ("node", "resume", "n1", "--overrule", "--days", "1", "--reason", "a test machine")
    fleet.run(*overruled, by="ada", code=PermissionRefused.exit_code)
    shown = fleet.run(*overruled)
    assert shown["node"]["phase"] == "healthy"
    acts = [each["action"] for each in shown["history"]]
    assert (acts[0], acts[-1], "node.empty" in acts) == ("node.check", "node.overrule", True)
    found = fleet.run("node", "check", "--record", "--node", "n1", code=EXIT_FINDING)
    assert found["recorded_as"] in ("healthy", "suspect"), "a busy machine may answer late"
    assert fleet.run("audit", "verify")["findings"] == []


def test_people_drain_resume_and_list_nodes_and_each_is_in_the_log(fleet: Fleet) -> None:
    fleet.run("node", "drain", "n1", "--reason", "new fan", by="ada", code=PermissionRefused.exit_code)
    assert fleet.run("node", "drain", "n1", "--reason", "new fan")["node"]["phase"] == "draining"
    assert fleet.run("node", "resume", "n1", "--reason", "done")["node"]["phase"] == "healthy"
    fleet.run("node", "resume", "n1", "--reason", "again", code=NodeActRefused.exit_code)
    fleet.run("node", "show", "n2", code=NodeNeverSeen.exit_code)
    assert fleet.run("node", "exclude", "n1", "--reason", "slow")["node"]["listing"] == "always"
    assert fleet.run("node", "exclude", "n1", "--reason", "ok", "--never")["node"]["listing"] == "never"
    acts = [(each["action"], each["actor"]) for each in fleet.run("node", "show", "n1")["history"]]
    assert acts == [(f"node.{deed}", "eve") for deed in ("drain", "resume", "exclude", "exclude")]


def test_lemons_are_shown_to_all_and_recorded_by_operators(fleet: Fleet) -> None:
    jobs = fleet.root.parent / "jobs.jsonl"
    now_s = time.time()
    lines = [{"ended_s": now_s, "nodes": [f"n{n}"]} for n in range(20)]
    jobs.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    fleet.run("node", "exclude", "n3", "--reason", "slow")
    found = fleet.run("node", "lemons", "--jobs", str(jobs), by="ada")
    assert (len(found["nodes"]), found["excluded"], found["recorded"]) == (20, ["n3"], False)
    fleet.run("node", "lemons", "--record", by="ada", code=PermissionRefused.exit_code)
    assert fleet.run("node", "lemons", "--jobs", str(jobs), "--record")["recorded"] is True
    jobs.write_text("cut in the mid")
    fleet.run("node", "lemons", "--jobs", str(jobs), code=BadJobHistory.exit_code)
