"""What a supervisor and the host of a node say to each other, a line of JSON each. See docs/design/spread.md.

To the host: one plan, then orders to its agent as in agent_plan.py, and what it is to know of the lease. From
it: a hello, the events of its agent, and signs of life. No secret is in any of it: what ranks of all nodes
share is wrapped under the run's KEK.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.core.config import from_plain
from stoker.core.errors import BadEvent, ConfigError
from stoker.core.events import Event, decode_event
from stoker.core.result import plain
from stoker.fleet.agent_plan import Order, decode_order, encode_order, not_understood, object_in
from stoker.keys.lease import Lease
from stoker.keys.lease_page import LeaseEnd
from stoker.keys.refs import KekRef
from stoker.spec.run import RankOutput


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node's part of an attempt. `home` and `project` say where its host opens the keys.

    `address` is a name or address of the node by which others reach it, `interface` the network's, where it
    is named; one of the two finds the network that ranks use.
    """

    home: str
    project: str
    run: str
    run_folder: str
    attempt: int
    node: str
    first_rank: int
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    with_keys: bool
    writable: tuple[str, ...] | None
    rank_output: RankOutput
    open_because: str
    ahead: bool
    datagrams: bool
    interface: str


@dataclass(frozen=True, slots=True)
class LeaseGiven:
    """The lease of the attempt, and the ranks' secret wrapped under `kek`, in hexadecimal digits."""

    id: str
    holder: str
    may_open: tuple[str, ...]
    may_seal: tuple[str, ...]
    purpose: str
    kek: str
    wrapped: str

    @classmethod
    def of(cls, lease: Lease, kek: KekRef, wrapped: bytes) -> LeaseGiven:
        read, sealed = (tuple(sorted(map(str, each))) for each in (lease.may_open, lease.may_seal))
        return cls(lease.id, lease.holder, read, sealed, lease.purpose_text, str(kek), wrapped.hex())

    def lease(self, expires_s: float) -> Lease:
        """The same lease on the other node, by that node's clock."""
        read, sealed = (frozenset(map(KekRef.parse, each)) for each in (self.may_open, self.may_seal))
        return Lease(self.id, self.holder, read, sealed, self.purpose, expires_s)


@dataclass(frozen=True, slots=True)
class LeaseShown:
    """The lease is good for so many seconds from now."""

    good_for_s: float


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """No key is handed out, and no chunk opened, from now on."""

    why: int

    @property
    def end(self) -> LeaseEnd:
        return LeaseEnd(self.why)


ToHost: TypeAlias = LeaseGiven | LeaseShown | LeaseEnded | Order


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word of a host; `mono_s` is its monotonic clock."""

    mono_s: float


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life, twice a second; `strangers` asked for keys and got none, so far."""

    strangers: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The node's part of the attempt could not begin, or broke: one of Stoker's errors."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Over:
    """No process of the attempt is left on the node; the host ends."""


FromHost: TypeAlias = Hello | Beat | Failed | Over | Event

_TO_HOST: Final[Mapping[str, type[LeaseGiven] | type[LeaseShown] | type[LeaseEnded]]] = {
    "lease_given": LeaseGiven,
    "lease_shown": LeaseShown,
    "lease_ended": LeaseEnded,
}
_FROM_HOST: Final[Mapping[str, type[Hello] | type[Beat] | type[Failed] | type[Over]]] = {
    "hello": Hello,
    "beat": Beat,
    "failed": Failed,
    "over": Over,
}
_SUPERVISOR: Final = "The supervisor"
_SAID_BY_HOST: Final = "host"
"""The field that tells a line of a host from an event."""


def encode_plan(plan: NodePlan) -> bytes:
    return json.dumps(plain(plan)).encode() + b"\n"


def decode_plan(line: bytes) -> NodePlan:
    """Raises ConfigError on anything that `encode_plan` did not write."""
    return from_plain(NodePlan, object_in(line, _SUPERVISOR), "the plan from the supervisor")


def encode_to_host(said: ToHost) -> bytes:
    for name, kind in _TO_HOST.items():
        if isinstance(said, kind):
            return json.dumps({"order": name, "body": plain(said)}).encode() + b"\n"
    assert not isinstance(said, LeaseGiven | LeaseShown | LeaseEnded)
    return encode_order(said)


def decode_to_host(line: bytes) -> ToHost:
    """Raises ConfigError, or what KekRef.parse raises, on anything that `encode_to_host` did not write."""
    body = object_in(line, _SUPERVISOR)
    name = body.get("order")
    kind = _TO_HOST.get(name) if isinstance(name, str) else None
    if kind is None:
        return decode_order(line)
    said = from_plain(kind, body.get("body"), "the supervisor")
    try:
        _try(said)
    except ValueError:
        raise not_understood(_SUPERVISOR) from None
    return said


def _try(said: LeaseGiven | LeaseShown | LeaseEnded) -> None:
    """What is made of the words of a lease, so that whoever takes it later cannot fail on them."""
    match said:
        case LeaseGiven():
            said.lease(0.0), KekRef.parse(said.kek), bytes.fromhex(said.wrapped)
        case LeaseEnded():
            LeaseEnd(said.why)


def encode_from_host(said: Hello | Beat | Failed | Over) -> bytes:
    (name,) = (name for name, kind in _FROM_HOST.items() if isinstance(said, kind))
    return json.dumps({_SAID_BY_HOST: name, "body": plain(said)}).encode() + b"\n"


def decode_from_host(line: bytes) -> FromHost:
    """Raises BadEvent on what is neither a host's line nor an event."""
    try:
        body = json.loads(line)
        kind = _FROM_HOST.get(str(body.get(_SAID_BY_HOST))) if isinstance(body, dict) else None
        if kind is not None:
            return from_plain(kind, body["body"], "the host of a node")
    except (ValueError, KeyError, RecursionError, ConfigError) as error:
        raise BadEvent("The host of a node sent a line that nobody understands.") from error
    return decode_event(line, "the agent of a node")
