"""`stoker node`: check this node, see the nodes of the fleet, and take one out of use or back."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.node_text import report_text
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.core.node import node_name
from stoker.fleet.nodes.finding import NodeReport


@click.group()
def node() -> None:
    """Nodes: check this one; list, drain, resume and exclude them; find lemons."""


def _found(report: NodeReport) -> int:
    return EXIT_FINDING if report.findings else EXIT_DONE


def report_here(house: House, *, node: str, idle: bool = False) -> NodeReport:
    """Check this machine, as this home's settings ask; nothing of the home is made for it."""
    from stoker.fleet.nodes.checks import run_checks
    from stoker.fleet.nodes.machine_view import MachineView
    from stoker.promises.live_probe import probe_now

    there = house.home.root.is_dir() and os.access(house.home.root, os.W_OK)
    view = MachineView(
        settings=house.settings.nodes,
        clock=house.clock,
        scratch=house.home.root if there else Path(tempfile.gettempdir()),
        environment=dict(os.environ),
        keys_url=house.settings.keys_url(house.home),
        store_url=house.store_url,
        probe_isolation=probe_now,
        idle=idle,
    )
    return run_checks(view, node or this_node(house))


def this_node(house: House) -> str:
    """This node's name in the home's records, or the machine's where there is no home yet."""
    if (house.home.root / "version").exists():
        return node_name(house.home)
    return platform.node() or "this-machine"


@command("check", needs=Deed.LOOK, text=report_text, exit_code=_found)
@click.option("--node", "named", metavar="NAME", default="", help="Call this node NAME in the report.")
def check(house: House, named: str) -> NodeReport:
    """Look this node over: some thirty checks in under five seconds. Exit code 1 on a finding."""
    return report_here(house, node=named)


node.add_command(check)
