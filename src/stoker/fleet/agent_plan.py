"""What supervisor and agent say to each other over the control socket. See docs/design/fleet.md, "The agent".

From the supervisor: one plan, then orders, each one line of JSON. From the agent: event lines, and nothing
else. Descriptors are inherited; the plan names their numbers. No secret is in any of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any, Final, TypeAlias

from stoker.core.config import from_plain
from stoker.core.errors import ConfigError
from stoker.core.isolation import Outside
from stoker.core.result import plain
from stoker.spec.run import IsolationMeans, IsolationPolicy, RankOutput

MAX_PLAN_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One attempt on one node. `key_fds` and `secret_fds` have one descriptor a rank, or none where ranks
    need no keys; `lease_fd` is -1 where there is no page of the lease. `store_fds` are several a rank, or
    none where ranks reach their store themselves.

    `nodes` is the node of each rank; an agent that has several plays them as groups of processes. Ranks are
    numbered from `first_rank`, for agents of other nodes have those before it. `events_path` is empty where
    the supervisor writes down what is told. `ahead`: it is not begun yet; what it tells is not in the run's
    events until it is woken.
    `outside` is where the supervisor listens: the isolation probe, repeated every `probe_every_s`, must not
    reach it. Ranks write only in `writable` where the kernel can see to it; None: nobody sees to it.
    `datagrams`: ranks may make datagram sockets of AF_UNIX, without which NCCL does not begin.
    """

    run: str
    attempt: int
    nodes: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    key_fds: tuple[int, ...]
    secret_fds: tuple[int, ...]
    lease_fd: int
    store_fds: tuple[tuple[int, ...], ...]
    lock_fd: int
    events_path: str
    log_folder: str
    isolation: IsolationPolicy
    isolate_by: IsolationMeans
    probe_every_s: float
    outside: Outside
    writable: tuple[str, ...] | None
    rank_output: RankOutput
    open_because: str
    ahead: bool = False
    datagrams: bool = False
    first_rank: int = 0


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start every rank. Comes after the isolation was probed and the lease was given."""


@dataclass(frozen=True, slots=True)
class Warm:
    """Start every rank of an attempt that is not begun yet, to wait at its gate."""


@dataclass(frozen=True, slots=True)
class Wake:
    """The attempt begins: probe the isolation and tell it. `Spawn` follows, and lets the ranks through.

    They are numbered from `first_rank` and are on `nodes`, which may have changed since they were started.
    """

    first_rank: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """Send one rank a signal, SIGKILL mostly: an injected fault."""

    rank: int
    signal: int = SIGKILL


@dataclass(frozen=True, slots=True)
class Save:
    """Ask the ranks for a checkpoint after the step that they are in."""


@dataclass(frozen=True, slots=True)
class Lose:
    """A node that this agent plays is gone, with all its ranks: an injected fault."""

    node: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End every rank: SIGTERM first when `grace_s` is more than zero, SIGKILL after it; then end.

    `quiet`: no SIGTERM; ranks know from their lease that they are to end, and wipe what they hold before.
    `stacks`: no SIGTERM; they are asked where they stand, and that is told.
    """

    grace_s: float
    quiet: bool = False
    stacks: bool = False


Order: TypeAlias = Spawn | Warm | Wake | Kill | Lose | Save | Stop
_ORDERS: Final[Mapping[str, type[Order]]] = {
    kind.__name__.lower(): kind for kind in (Spawn, Warm, Wake, Kill, Lose, Save, Stop)
}
_SUPERVISOR: Final = "The supervisor"


def encode_plan(plan: AgentPlan) -> bytes:
    return _line(plan)


def decode_plan(line: bytes) -> AgentPlan:
    """Raises ConfigError on anything that `encode_plan` did not write."""
    return from_plain(AgentPlan, object_in(line, _SUPERVISOR), "the plan from the supervisor")


def encode_order(order: Order) -> bytes:
    name = type(order).__name__.lower()
    body = plain(order)
    assert isinstance(body, dict)
    return json.dumps({"order": name, **body}).encode() + b"\n"


def decode_order(line: bytes) -> Order:
    """Raises ConfigError on anything that `encode_order` did not write."""
    body = object_in(line, _SUPERVISOR)
    name = body.pop("order", None)
    kind = _ORDERS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise not_understood(_SUPERVISOR)
    return from_plain(kind, body, "an order from the supervisor")


def object_in(line: bytes, who: str) -> dict[str, Any]:
    """The JSON object in a line. Raises ConfigError, which names `who` sent it, on anything else."""
    try:
        body = json.loads(line)
        json.dumps(body, ensure_ascii=False).encode()  # refuses halves of characters, which no name has
    except (ValueError, RecursionError):
        raise not_understood(who) from None
    if not isinstance(body, dict):
        raise not_understood(who)
    return body


def not_understood(who: str) -> ConfigError:
    """A line that nothing of Stoker writes. What stands in it is not repeated."""
    return ConfigError(
        f"{who} sent a line that nobody understands.",
        hint="Both ends of a run must be of one version of Stoker; start the run again.",
    )


def _line(value: AgentPlan) -> bytes:
    return json.dumps(plain(value)).encode() + b"\n"
