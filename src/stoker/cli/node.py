"""`stoker node`: check this node, see the nodes of the fleet, and take one out of use or back."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.node_acts import drain, exclude, lemons, ls, resume, show
from stoker.cli.node_text import report_text
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.core.node import node_name
from stoker.fleet.errors import BadAnswer, LauncherRefused, LauncherSilent, UnknownNode
from stoker.fleet.launchers import NodeState, NodeView
from stoker.fleet.nodes.finding import NodeReport
from stoker.fleet.nodes.machine_view import MachineView
from stoker.fleet.nodes.processes import ranks_here
from stoker.fleet.nodes.slurm_hook import Hook


@click.group()
def node() -> None:
    """Nodes: check this one; list, drain, resume and exclude them; find lemons."""


def _found(report: NodeReport) -> int:
    """1 on a finding; where Slurm asked, 1 only where a prolog is to send the job elsewhere."""
    if report.for_slurm:
        return EXIT_FINDING if report.refuses else EXIT_DONE
    return EXIT_FINDING if report.findings else EXIT_DONE


def view_here(house: House, *, idle: bool = False) -> MachineView:
    """This machine, as this home's settings ask for it; nothing of the home is made for it."""
    from stoker.promises.live_probe import probe_now

    there = house.home.root.is_dir() and os.access(house.home.root, os.W_OK)
    return MachineView(
        settings=house.settings.nodes,
        clock=house.clock,
        scratch=house.home.root if there else Path(tempfile.gettempdir()),
        environment=dict(os.environ),
        keys_url=house.settings.keys_url(house.home),
        store_url=house.store_url,
        probe_isolation=probe_now,
        idle=idle,
    )


def this_node(house: House) -> str:
    """This node's name in the home's records, or the machine's where there is no home yet."""
    if (house.home.root / "version").exists():
        return node_name(house.home)
    return platform.node() or "this-machine"


def recorded(house: House, view: MachineView, report: NodeReport) -> NodeReport:
    """The report with where the node stands now that the ledger has heard it."""
    from stoker.fleet.nodes.node_acts import record_event, seen_in
    from stoker.fleet.nodes.node_state import JobsGone

    if view.idle or not ranks_here(view):
        record_event(house.ledger, report.node, JobsGone(report.checked_s), actor=house.actor)
    change = record_event(house.ledger, report.node, seen_in(report), actor=house.actor)
    return replace(report, recorded_as=change.after.phase.value)


def told_slurm(house: House, view: MachineView, hook: Hook, report: NodeReport) -> NodeReport:
    """Drain, give up or resume the node in Slurm; a Slurm that cannot be told is told about."""
    from stoker.fleet.nodes.slurm_hook import carry_out, decide, silent_in, swap_silent
    from stoker.fleet.slurm.launcher import SlurmLauncher

    silent = swap_silent(view.scratch, report.node, silent_in(report))
    try:
        act = carry_out(SlurmLauncher(house.clock), hook, report, silent)
        told = f"{hook.value}: {act.deed.value}" + (f" ({act.reason})" if act.reason else "")
    except (BadAnswer, LauncherRefused, LauncherSilent, UnknownNode) as error:
        act = decide(hook, report, NodeView(report.node, NodeState.UNKNOWN), silent)
        told = f"{hook.value}: {act.deed.value} was meant, and Slurm was not told: {error.message}"
    return replace(report, for_slurm=told, refuses=act.refuses)


@command(
    "check", needs=Deed.LOOK, needs_with={"record": Deed.NODE_RECORD}, text=report_text, exit_code=_found
)
@click.option("--node", "named", metavar="NAME", default="", help="Call this node NAME in the report.")
@click.option("--record", is_flag=True, help="Let the report decide about the node, in the ledger.")
@click.option("--idle", is_flag=True, help="No job is to be on the node; what is there was left behind.")
@click.option(
    "--for", "asked_by", type=click.Choice(["slurm"]), help="Act as Slurm's health check, prolog or epilog."
)
def check(house: House, named: str, record: bool, idle: bool, asked_by: str | None) -> NodeReport:
    """Look this node over: some thirty checks in under five seconds. Exit code 1 on a finding."""
    from stoker.fleet.nodes.checks import run_checks
    from stoker.fleet.nodes.slurm_hook import hook_of, slurm_node

    hook = hook_of(os.environ) if asked_by else None
    if hook is not None:
        named = named or slurm_node(os.environ)
    view = view_here(house, idle=idle or hook is Hook.EPILOG)
    report = run_checks(view, named or this_node(house))
    report = recorded(house, view, report) if record else report
    return report if hook is None else told_slurm(house, view, hook, report)


for _each in (check, ls, show, drain, resume, exclude, lemons):
    node.add_command(_each)
