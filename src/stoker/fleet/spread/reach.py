"""How a process is started on another node of a run. See docs/design/spread.md, "Reach"."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from stoker.core.clock import SystemClock
from stoker.core.slurm import slurm_command
from stoker.fleet.errors import LauncherSilent
from stoker.fleet.launchers import NodeState
from stoker.fleet.slurm.launcher import SlurmLauncher
from stoker.fleet.slurm.watch import answers

HOST: Final = (sys.executable, "-P", "-m", "stoker.cli.node_host")
"""What runs on each node; environment, folders and this very interpreter are the same on all of them."""

_SRUN: Final = (
    "srun",
    "--overlap",
    "--nodes=1",
    "--ntasks=1",
    "--nodelist={node}",
    "--unbuffered",
    "--kill-on-bad-exit=0",
    "--mem=0",
    "--cpu-bind=none",
    "--job-name=stoker-node",
    "--quiet",
)
_ASK_WITHIN_S: Final = 10.0
_HINT: Final = "Look whether `squeue` and `scontrol show hostnames` answer in this job."


@dataclass(frozen=True, slots=True)
class Reach:
    """The nodes of a run, and the words before a command that runs it on one, with `{node}` for its name.

    Standard input and output of the command are the link to it. `answers` says whether a node is there; it
    is asked when its link has ended without a word. `interface` is the network's by which ranks reach one
    another; empty: the one that has the address of the node's name.
    """

    nodes: tuple[str, ...]
    words: tuple[str, ...] = ()
    answers: Callable[[str], bool] = lambda node: True
    host: tuple[str, ...] = HOST
    interface: str = ""

    def command(self, node: str) -> tuple[str, ...]:
        """What starts the host of `node`."""
        return (*(word.replace("{node}", node) for word in self.words), *self.host)


def reach_of(environment: Mapping[str, str], interface: str) -> Reach | None:
    """The nodes of the Slurm job that this process is in; None where it is in none, or in one of one node.

    Raises LauncherSilent when Slurm does not say which nodes they are.
    """
    named = environment.get("SLURM_JOB_NODELIST", "")
    if not environment.get("SLURM_JOB_ID") or environment.get("SLURM_JOB_NUM_NODES", "1") == "1" or not named:
        return None
    answering = partial(_slurm_answers, environment["SLURM_JOB_ID"])
    return Reach(_expanded(named), _SRUN, answering, interface=interface)


def _expanded(named: str) -> tuple[str, ...]:
    """`node[1-3]` in full, as Slurm says."""
    return tuple(_answer("scontrol", "show", "hostnames", named).split())


def _answer(*command: str) -> str:
    """What one of Slurm's commands prints. Raises LauncherSilent when it is not there or fails."""
    try:
        done = slurm_command(*command, patience_s=_ASK_WITHIN_S)
    except OSError as error:
        raise LauncherSilent(f"{command[0]} cannot be run: {error.strerror}.", hint=_HINT) from error
    if done.returncode != 0:
        said = done.stderr.strip()[:300]
        raise LauncherSilent(f"Slurm does not say which nodes are this job's: {said}", hint=_HINT)
    return done.stdout


def _slurm_answers(job: str, node: str) -> bool:
    """Whether the node is still the job's, is not given up, and its daemon takes a connection.

    A Slurm that does not answer says nothing against a node.
    """
    try:
        ours = _expanded(_answer("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip())
        known = {each.name: each for each in SlurmLauncher(SystemClock()).nodes()}
    except LauncherSilent:
        return True
    return node in ours and node in known and known[node].state is not NodeState.DOWN and answers(known[node])
