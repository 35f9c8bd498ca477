"""What the processes and nodes of a run are told by each other, as fuzzing gives it to them.

On the wire between nodes bytes come from whoever connects, and, sealed, from who holds the run's secret: both
are tried. The seal is made here from its description in docs/design/store.md, not by the code that checks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
from collections.abc import Callable, Iterator
from typing import Any

from stoker.core.clock import SystemClock
from stoker.core.ids import RunId
from stoker.core.isolation import Outside
from stoker.fleet.agent_plan import (
    AgentPlan,
    Kill,
    Lose,
    Order,
    Save,
    Spawn,
    Stop,
    Wake,
    Warm,
    encode_order,
)
from stoker.fleet.agent_plan import encode_plan as encode_agent_plan
from stoker.fleet.spread.node_lines import (
    Beat,
    Failed,
    Hello,
    LeaseEnded,
    LeaseGiven,
    LeaseShown,
    NodePlan,
    Over,
    decode_to_host,
    encode_from_host,
    encode_plan,
    encode_to_host,
)
from stoker.keys.lease_page import LeaseEnd
from stoker.keys.secret import SecretKey
from stoker.spec.run import IsolationMeans, IsolationPolicy, RankOutput
from stoker.store.errors import BadObjectKey
from stoker.store.objects import check_key
from stoker.store.peers_wire import MAGIC, Answer, PeerFault, Wire

KEK = "run/r-1/0123#1"
OBJECT = b"an object of some bytes"


class Heard:
    """A connection on which nothing but `data` comes, and what is said is not heard."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def settimeout(self, seconds: float) -> None:
        """A read never waits here."""

    def sendall(self, data: bytes | memoryview) -> None:
        """Said to nobody."""

    def recv_into(self, target: memoryview) -> int:
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def wire(data: bytes) -> Wire:
    clock = SystemClock()
    return Wire(Heard(data), clock, clock.monotonic_s() + 60.0)  # type: ignore[arg-type]


def strangers_bytes(data: bytes) -> None:
    """Bytes of someone without the secret, given to both ends of a handshake and to what comes behind it."""
    ways: tuple[Callable[[Wire, SecretKey], Any], ...] = (
        lambda end, secret: end.welcome(secret, "r-1"),
        lambda end, secret: end.greet(secret, "r-1"),
        lambda end, _: end.receive_request(),
        lambda end, _: end.receive_answer(),
    )
    with SecretKey() as secret:
        for way in ways:
            with contextlib.suppress(PeerFault):
                way(wire(data), secret)


def sealed(what: bytes, sequence: int, body: bytes) -> bytes:
    """A message as who holds the secret sends it; the connection's key is still empty before a handshake."""
    counted = what + b"\0" + sequence.to_bytes(4, "big") + body
    return body + hmac.digest(b"", counted, "sha256")


def peer_request(data: bytes) -> Any:
    """A request of a node that is one of the run's, and the judgement of the name in it."""
    request = wire(sealed(b"request", 1, data)).receive_request()
    try:
        return check_key(request.key)
    except BadObjectKey:
        return None


def peer_answers(data: bytes) -> Any:
    """Answers of such a node, nine bytes each, and behind them the object."""
    told = b"".join(sealed(b"answer", at + 1, data[9 * at : 9 * at + 9]) for at in range(3))
    node = wire(told + data[27:])
    answer, size, asked = Answer.PENDING, 0, 0
    while answer is Answer.PENDING and asked < 3:
        answer, size = node.receive_answer()
        asked += 1
    got = bytearray(len(OBJECT))

    def keep(part: memoryview, offset: int) -> None:
        got[offset : offset + len(part)] = part

    if answer is Answer.FOUND and size == len(OBJECT):
        node = wire(data[9 * asked :])
        node.receive_object(len(OBJECT), hashlib.sha256(OBJECT).digest(), 1.0, keep)
        assert bytes(got) == OBJECT, "bytes of another digest came through"
    return answer, size


def lease_words(data: bytes) -> Any:
    """A line to the host of a node, and what it makes of a lease."""
    said = decode_to_host(data)
    match said:
        case LeaseGiven():
            return said.lease(1.0), bytes.fromhex(said.wrapped)
        case LeaseEnded():
            return said.end
    return said


def strangers_seeds() -> tuple[bytes, ...]:
    hello = struct.pack(">4sB3x32s", MAGIC, 1, bytes(32))
    challenge = struct.pack(">4sB3x32s32s", MAGIC, 1, bytes(32), bytes(32))
    return hello + bytes(32), challenge


def request_seeds() -> tuple[bytes, ...]:
    names = b"datasets/text/0123/shard-7.stk", b"a"
    return tuple(struct.pack(">QH32s", 1 << 20, len(name), bytes(32)) + name for name in names)


def answer_seeds() -> tuple[bytes, ...]:
    pending, found = (struct.pack(">BQ", kind, len(OBJECT)) for kind in (Answer.PENDING, Answer.FOUND))
    lacks = struct.pack(">BQ", Answer.LACKS, 0)
    return pending + found + OBJECT, pending + pending + found + OBJECT, lacks + bytes(18)


def agent_plan_seeds() -> tuple[bytes, ...]:
    plan = AgentPlan(
        run=RunId("r-1"),
        attempt=1,
        nodes=("a", "b"),
        commands=(("python", "-m", "x"), ("python", "-m", "x")),
        environment={"HOME": "/home"},
        key_fds=(5, 6),
        secret_fds=(),
        lease_fd=-1,
        store_fds=((7,), (8,)),
        lock_fd=9,
        events_path="",
        log_folder="logs",
        isolation=IsolationPolicy.REQUIRED,
        isolate_by=IsolationMeans.AUTO,
        probe_every_s=10.0,
        outside=Outside(4000, "name"),
        writable=("/tmp",),
        rank_output=RankOutput.SIEVED,
        open_because="",
    )
    return (encode_agent_plan(plan),)


def _orders() -> Iterator[Order]:
    yield from (Spawn(), Warm(), Wake(2, ("a", "b")), Kill(1), Save(), Lose("a"), Stop(1.5, stacks=True))


def order_seeds() -> tuple[bytes, ...]:
    return tuple(map(encode_order, _orders()))


def node_plan_seeds() -> tuple[bytes, ...]:
    plan = NodePlan(
        "home", "", "r-1", "runs/r-1", 1, "a", 0, (("python",),), {"A": "b"}, True, None,
        RankOutput.SIEVED, "", False, False, "lo",
    )  # fmt: skip
    return (encode_plan(plan),)


def to_host_seeds() -> tuple[bytes, ...]:
    given = LeaseGiven("l-1", "r-1", (KEK,), (KEK,), "research", KEK, "77" * 66)
    said = (given, LeaseShown(30.0), LeaseEnded(int(next(iter(LeaseEnd)))), Kill(1))
    return tuple(map(encode_to_host, said))


def from_host_seeds() -> tuple[bytes, ...]:
    return tuple(map(encode_from_host, (Hello(1.5), Beat(0), Failed("no", "look"), Over())))
