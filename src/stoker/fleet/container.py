"""How an agent comes into a network of its own: by a namespace, or by starting itself anew in bubblewrap.

Whichever the platform allows: root and most users may unshare a namespace; where users may not, a bubblewrap
that the administrator installed may. See docs/design/fleet.md, "Isolation".
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from stoker.core import bubblewrap
from stoker.core.isolation import Isolation, IsolationState, isolate
from stoker.core.landlock import writing_only_in
from stoker.core.seccomp import refuse_ways_out
from stoker.fleet.agent_plan import MAX_PLAN_BYTES, AgentPlan, encode_plan
from stoker.spec.run import IsolationMeans, IsolationPolicy


def contained(plan: AgentPlan, control: socket.socket, begun: bool) -> Isolation | None:
    """Isolate this process as the plan asks; it may go on as another process, which calls this again.

    None when isolation is off. `begun`: this process was started in bubblewrap already. A caller probes
    afterwards: what comes back says only what was done.
    """
    if plan.isolation is IsolationPolicy.OFF:
        return None
    if begun:
        refuse_ways_out(datagrams=plan.datagrams)
        return Isolation(IsolationState.ISOLATED, "in bubblewrap")
    refused = Isolation(IsolationState.REFUSED, "bubblewrap was asked for")
    if plan.isolate_by is not IsolationMeans.BUBBLEWRAP:
        refused = isolate(datagrams=plan.datagrams)
    if refused.state is IsolationState.ISOLATED or plan.isolate_by is IsolationMeans.NAMESPACE:
        return refused
    wrapper, why = bubblewrap.usable()
    if wrapper is not None:
        _begin_anew(wrapper, plan, control)
    return Isolation(IsolationState.REFUSED, f"{refused.reason}, and {why}")


@contextlib.contextmanager
def ruleset_of(plan: AgentPlan) -> Iterator[int | None]:
    """What the kernel is to hold ranks to, for the length of the block; None where it cannot, or need not."""
    folders = None if plan.writable is None else [Path(each) for each in plan.writable]
    ruleset = None if folders is None else writing_only_in(folders, no_socket_files=plan.datagrams)
    try:
        yield ruleset
    finally:
        if ruleset is not None:
            os.close(ruleset)


def read_plan(descriptor: int) -> bytes:
    """The plan that the process before this one left, from its beginning; the descriptor is closed."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read(MAX_PLAN_BYTES)


def _begin_anew(wrapper: str, plan: AgentPlan, control: socket.socket) -> NoReturn:
    """Become bubblewrap with this agent in it; every descriptor of the plan is inherited as it is."""
    left = os.memfd_create("stoker-plan", 0)
    with open(left, "wb", closefd=False) as file:
        file.write(encode_plan(plan))
    os.set_inheritable(control.fileno(), True)
    agent = [sys.executable, "-P", "-m", "stoker.fleet.agent", "--control", str(control.fileno())]
    os.execv(wrapper, bubblewrap.inside(wrapper, [*agent, "--plan", str(left)]))  # noqa: S606
