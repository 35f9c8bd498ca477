"""A real Slurm for tests: tests/testbed/slurm-up.sh in a folder of its own, ended by the pids it recorded."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SCRIPTS: Final = Path(__file__).parents[1] / "testbed"
_OFFSETS: Final = (1, 2, 3, 4, 900)
"""Beside the base port: four nodes, and the controller."""


@dataclass(frozen=True, slots=True)
class Slurm:
    """A running Slurm. `root` holds everything it writes; commands find it by SLURM_CONF = `conf`."""

    root: Path

    @property
    def conf(self) -> Path:
        return self.root / "etc/slurm.conf"

    def queue(self) -> list[str]:
        """The names of all jobs that wait or run."""
        return self.say("squeue", "--noheader", "--format=%j").split()

    def say(self, *words: str) -> str:
        """What one of Slurm's commands answers."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout

    def lose_node(self, node: str) -> None:
        """SIGKILL to a node's daemon and to all that runs there, as when its power fails."""
        daemon = int((self.root / f"pids/slurmd-{node}.pid").read_text())
        os.kill(daemon, signal.SIGKILL)
        for pid in _processes_on(node, self.conf):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_daemon(self, node: str) -> None:
        """SIGKILL to a node's daemon alone: what runs there lives on."""
        os.kill(int((self.root / f"pids/slurmd-{node}.pid").read_text()), signal.SIGKILL)

    def restart_controller(self) -> None:
        """SIGKILL to slurmctld, and another one that goes on with what it had saved."""
        pid = int((self.root / "pids/slurmctld.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
        self.say("slurmctld")
        deadline = time.monotonic() + 60
        while not self._controller_answers():
            assert time.monotonic() < deadline, "slurmctld does not come back"
            time.sleep(0.1)

    def _controller_answers(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            return "is UP" in self.say("scontrol", "ping")
        return False

    def bring_back(self, node: str) -> None:
        """A node that was lost has power again."""
        self.say("slurmd", "-N", node)
        self.resume(node)

    def resume(self, node: str) -> None:
        """A node that was taken out of use takes work again."""
        deadline = time.monotonic() + 60
        usable = ("idle", "mixed", "alloc")
        while not self.say("sinfo", "--noheader", f"--nodes={node}", "--format=%T").startswith(usable):
            with suppress(subprocess.CalledProcessError):
                self.say("scontrol", "update", f"nodename={node}", "state=resume")
            assert time.monotonic() < deadline, self.say("sinfo", "--Node", "--long")
            time.sleep(0.1)

    def tidy(self) -> None:
        """End every job, and bring every node back that a test has lost or drained."""
        self.say("scancel", "--user=root", "--quiet")
        for line in self.say("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines():
            node, state = line.split()
            pid = self.root / f"pids/slurmd-{node}.pid"
            if not (pid.exists() and Path(f"/proc/{pid.read_text().strip()}").exists()):
                self.say("slurmd", "-N", node)
            if state.startswith(("down", "drain")):
                with suppress(subprocess.CalledProcessError):  # it came back by itself
                    self.say("scontrol", "update", f"nodename={node}", "state=resume")
        deadline = time.monotonic() + 60
        while (
            self.queue() or self.say("sinfo", "--noheader", "--Node", "--format=%T").split() != ["idle"] * 4
        ):
            assert time.monotonic() < deadline, self.say("sinfo", "--Node", "--long")
            time.sleep(0.1)


def _processes_on(node: str, conf: Path) -> list[int]:
    """Every process that Slurm started on a node, and what those started; first who would tell of their end.

    What a job begins with knows the node by a variable; its parent is slurmstepd.
    """
    parents: dict[int, int] = {}
    begun = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={conf}".encode()} <= set(environment):
                begun.add(int(process.name))
    tellers = {
        parents[pid]
        for pid in begun
        if parents.get(pid, 1) != 1
        and Path(f"/proc/{parents[pid]}/comm").read_text().startswith("slurmstepd")
    }
    found = set(begun)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [*tellers, *found]


@contextmanager
def slurm_testbed() -> Iterator[Slurm]:
    """Four nodes on this machine; the folder is short, since it holds a socket, and is removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="stoker-slurm-"))
    try:
        root.chmod(0o755)
        environment = {**os.environ, "BASEPORT": str(_free_base_port())}
        up = [str(_SCRIPTS / "slurm-up.sh"), "--nodes", "4", "--root", str(root)]
        subprocess.run(up, check=True, env=environment, stdout=subprocess.DEVNULL)
        yield Slurm(root)
    finally:
        subprocess.run([str(_SCRIPTS / "slurm-down.sh"), "--root", str(root)], check=True)
        shutil.rmtree(root, ignore_errors=True)


def _free_base_port() -> int:
    for base in range(21_000 + os.getpid() % 1000 * 10, 60_000, 13):
        with ExitStack() as held:
            try:
                for offset in _OFFSETS:
                    each = held.enter_context(socket.socket())
                    each.bind(("127.0.0.1", base + offset))
            except OSError:
                continue
            return base
    raise AssertionError("no ports are free")
