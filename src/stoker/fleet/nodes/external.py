"""Programs of others as checks: the exit code decides, what is printed is only shown."""

from __future__ import annotations

from collections.abc import Callable

from stoker.core.node_settings import ExternalCheck
from stoker.fleet.nodes.finding import Finding, fail, ok, one_line, warn
from stoker.fleet.nodes.machine_view import MachineView


def external(wanted: ExternalCheck) -> Callable[[MachineView], Finding]:
    """The check that runs `wanted.command`."""

    def check(view: MachineView) -> Finding:
        output = view.command(*wanted.command, limit_s=wanted.limit_s * 0.9)
        said = [line for line in output.text.splitlines() if line.strip()]
        ended = f"exit code {output.code}" if output.code >= 0 else f"ended by signal {-output.code}"
        told = one_line(f"{ended}: {said[-1]}" if said else f"{ended}, nothing printed")
        if output.code in wanted.ok:
            return ok(told)
        return warn(told) if output.code in wanted.warn else fail(told)

    return check
