"""Our checks as Slurm's HealthCheckProgram, prolog and epilog: what is done with the node then.

Slurm has no room for our states: the reason of a drained node carries the names of the checks that drained
it, and only a node with such a reason is taken back. See docs/design/nodes.md, "Slurm".
"""

from __future__ import annotations

import contextlib
import enum
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from stoker.core.node_settings import Severity
from stoker.fleet.launchers import NodeState, NodeView
from stoker.fleet.nodes.finding import CheckResult, CheckState, NodeReport

MARK: Final = "stoker "
"""What the reason of a node begins with when we drained it: `stoker gpu_xid,disk_space: evidence`."""

_OUR_REASON: Final = re.compile(r"stoker ([a-z0-9_,.-]{1,150}):")
_MAX_REASON: Final = 180


class Hook(enum.StrEnum):
    """Where Slurm calls us."""

    HEALTH = "health"
    """HealthCheckProgram: every so often; its exit code means nothing to Slurm."""

    PROLOG = "prolog"
    """Before a job: an exit code but 0 sends the job elsewhere and drains the node."""

    EPILOG = "epilog"
    """After a job: nothing of it is to be left."""


class Deed(enum.StrEnum):
    """What is done with the node."""

    NOTHING = "nothing"
    DRAIN = "drain"
    GIVE_UP = "give up"
    """Down: Slurm ends its jobs at once and queues them again."""

    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class SlurmAct:
    """What is done, with the reason for Slurm, and whether a prolog refuses the job."""

    deed: Deed
    reason: str = ""
    refuses: bool = False


class NodeKeeper(Protocol):
    """What is needed of a launcher; SlurmLauncher has it."""

    def nodes(self) -> Sequence[NodeView]:
        """Every node."""
        ...

    def drain(self, node: str, reason: str) -> None:
        """Give a node no new work."""
        ...

    def give_up(self, node: str, reason: str) -> None:
        """End what runs there, at once."""
        ...

    def resume(self, node: str) -> None:
        """Give a node work again."""
        ...


def hook_of(environment: Mapping[str, str]) -> Hook:
    """Which of Slurm's hooks this is, by SLURM_SCRIPT_CONTEXT; a health check has none."""
    context = environment.get("SLURM_SCRIPT_CONTEXT", "")
    return next((hook for hook in (Hook.PROLOG, Hook.EPILOG) if context.startswith(hook.value)), Hook.HEALTH)


def slurm_node(environment: Mapping[str, str]) -> str:
    """This node's name in Slurm: SLURMD_NODENAME, or the machine's, which is the name of nodes by default."""
    return environment.get("SLURMD_NODENAME") or platform.node().partition(".")[0]


def decide(hook: Hook, report: NodeReport, seen: NodeView, silent_before: Collection[str]) -> SlurmAct:
    """What to do with the node that Slurm sees as `seen`.

    A check without an answer counts once it had none the last time either (`silent_before`). A reason that
    somebody else gave stays, and so does the node then.
    """
    failed = [each for each in report.of(CheckState.FAIL) if each.answered or each.name in silent_before]
    if failed:
        return _out(hook, failed, seen)
    ours = _OUR_REASON.match(seen.reason)
    kept_out = seen.state in (NodeState.DRAINING, NodeState.DRAINED, NodeState.DOWN)
    if ours and kept_out and not report.findings:
        sound = {each.name for each in report.of(CheckState.OK)}
        if sound.issuperset(ours[1].split(",")):
            return SlurmAct(Deed.RESUME)
    return SlurmAct(Deed.NOTHING)


def _out(hook: Hook, failed: Sequence[CheckResult], seen: NodeView) -> SlurmAct:
    names = ",".join(each.name for each in failed)[:150].rstrip(",")
    told = "; ".join(each.evidence for each in failed).replace("|", "/").replace("=", " ")
    reason = f"{MARK}{names}: {told}"[:_MAX_REASON]
    refuses = hook is Hook.PROLOG
    evict = any(each.severity is Severity.EVICT_NOW for each in failed)
    if evict and seen.state in (NodeState.UP, NodeState.DRAINING, NodeState.UNKNOWN):
        return SlurmAct(Deed.GIVE_UP, reason, refuses)
    if seen.state in (NodeState.UP, NodeState.UNKNOWN):
        return SlurmAct(Deed.DRAIN, reason, refuses)
    return SlurmAct(Deed.NOTHING, reason, refuses)


def carry_out(keeper: NodeKeeper, hook: Hook, report: NodeReport, silent_before: Collection[str]) -> SlurmAct:
    """Decide about `report.node` as Slurm sees it now, and do it. Raises what the keeper raises."""
    seen = next(
        (each for each in keeper.nodes() if each.name == report.node), NodeView(report.node, NodeState.UP)
    )
    act = decide(hook, report, seen, silent_before)
    match act.deed:
        case Deed.DRAIN:
            keeper.drain(report.node, act.reason)
        case Deed.GIVE_UP:
            keeper.give_up(report.node, act.reason)
        case Deed.RESUME:
            keeper.resume(report.node)
        case Deed.NOTHING:
            pass
    return act


def silent_in(report: NodeReport) -> tuple[str, ...]:
    """The checks that gave no answer."""
    return tuple(each.name for each in report.results if not each.answered)


def swap_silent(folder: Path, node: str, now: Sequence[str]) -> tuple[str, ...]:
    """The checks without an answer at the last call on this machine, and remember those of `now`.

    Slurm calls a new process each time. Where nothing can be written nothing is remembered.
    """
    path = folder / f".stoker-silent-{node}"
    before: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        before = tuple(path.read_text("ascii", "replace").split())
    with contextlib.suppress(OSError):
        path.write_text("\n".join(now), "ascii")
    return before
