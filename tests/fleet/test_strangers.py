"""Processes that no supervisor started as a rank, and nodes that are not this machine, get no key."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.events import EventKind
from stoker.fleet.run_folder import RunFolder
from stoker.keys.errors import LeaseRefused
from stoker.ledger.records import RunOutcome
from stoker.spec.run import IsolationPolicy
from stoker.train.checkpoint_errors import BadJob
from support.fake_house import told
from support.run_house import SPEC, RunHouse, run_house
from support.watching import Watching

ISOLATED = replace(SPEC, launch=replace(SPEC.launch, isolation=IsolationPolicy.REQUIRED))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as found:
        yield found


@pytest.mark.parametrize("how", ["lent", "guess", "forged"])
def test_atk_066_a_program_that_was_handed_a_ranks_socket_gets_no_key(house: RunHouse, how: str) -> None:
    """It has the socket; the rank's secret, or a guess; or it writes the rank's number on its message."""
    deed = {"do": "lend", "rank": 0, "at_step": "start", "attempt": 1, "how": how}
    summary = house.start(ISOLATED, deeds=[deed])
    assert summary.outcome is RunOutcome.FINISHED
    folder = RunFolder.of(house.home.runs_dir, summary.run)
    said = json.loads(folder.rank_log(1, 0).read_text())
    refused = told(folder, EventKind.CALLER_REFUSED)
    if how == "forged":
        assert said == {"error": "PermissionError"}, "the kernel lets nobody sign for another process"
        assert refused == []
    else:
        assert said["error"] == LeaseRefused.id
        assert "from another process than the one that was started for it" in said["message"]
        assert [event.number("count") for event in refused] == [1]


class Listeners(Watching):
    """A progress display that looks, while a run goes on, where its supervisor listens."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int]] = []
        self.answers: list[bytes] = []

    def describe(self, text: str) -> None:
        if self.found:
            return
        self.found = listening_tcp()
        for address in self.found:
            with socket.create_connection(address, timeout=5) as sock:
                sock.sendall(b"\0\0\0\2\2\3")
                sock.settimeout(0.5)
                try:
                    self.answers.append(sock.recv(100))
                except TimeoutError:
                    self.answers.append(b"")


def listening_tcp() -> list[tuple[str, int]]:
    """Addresses at which this process listens."""
    ours = {str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in ours:
                host, port = words[1].split(":")
                data = b"".join(
                    int(host[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(host), 8)
                )
                found.append((socket.inet_ntop(family, data), int(port, 16)))
    return found


def test_atk_066_a_node_has_nowhere_to_ask_for_a_key(house: RunHouse) -> None:
    """All that a supervisor listens at is what its ranks' probe must not reach: loopback, and it is mute."""
    before, looking = listening_tcp(), Listeners()
    summary = house.start(ISOLATED, progress=looking)
    assert summary.outcome is RunOutcome.FINISHED
    (probed,) = set(looking.found) - set(before)
    assert probed[0] == "127.0.0.1"
    assert set(looking.answers) == {b""}


def test_atk_066_a_worker_that_no_supervisor_started_has_no_key_to_work_with(house: RunHouse) -> None:
    """As on another node with the run's folder: the job of an attempt, and no descriptor of it."""
    summary = house.start(ISOLATED)
    job = RunFolder.of(house.home.runs_dir, summary.run).job(1)
    leases = house.actions().count("run.lease")
    command = [sys.executable, "-m", "stoker.train.worker", "--job", str(job), "--rank", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == BadJob.exit_code
    assert "STOKER_EVENT_FD is '', which is no open descriptor" in done.stderr
    assert house.actions().count("run.lease") == leases
