"""One attempt over several nodes, as the supervisor holds it: what `Attempt` is for one node.

Each node has a host with an agent of its own. What they tell is put into the run's events here, by this
node's clock. A node from which nothing is heard is lost. See docs/design/spread.md.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stoker.core.clock import Clock
from stoker.core.events import Event, EventKind, EventLog
from stoker.core.ids import RunId
from stoker.fleet.agent_plan import Kill, Lose, Order, Save, Spawn, Stop, Wake, Warm
from stoker.fleet.attempt import AttemptOrder
from stoker.fleet.attempt_lock import take_lock
from stoker.fleet.errors import AgentFailed
from stoker.fleet.rank_ears import Beats
from stoker.fleet.spread.node_lines import (
    Beat,
    Failed,
    Hello,
    LeaseEnded,
    LeaseGiven,
    LeaseShown,
    NodePlan,
    ToHost,
)
from stoker.fleet.spread.node_link import NodeLink
from stoker.fleet.spread.reach import Reach
from stoker.keys.agent import KeyAgent
from stoker.keys.lease_page import LeaseEnd

LOST_AFTER_S: Final = 4.0
"""A node that was there and has said nothing for so long is lost: eight of its signs of life."""

HELLO_WITHIN_S: Final = 60.0
"""So long a node may take to start its host; one that does not answer before is lost at once."""

_DOUBT_AFTER_S: Final = 5.0
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Site:
    """What a run over several nodes needs beside its order: how they are reached, and where the keys lie."""

    reach: Reach
    home: Path
    project: Path


class SpreadAttempt:
    """An attempt whose ranks have nodes of their own. Every method may be called when hosts have died."""

    def __init__(self, order: AttemptOrder, site: Site, clock: Clock, *, with_keys: bool) -> None:
        """Start a host on each node; each waits for `spawn`. Raises Busy, AgentFailed, DiskFull."""
        self.number: Final = order.attempt
        self._order = order
        self._site = site
        self._clock = clock
        self._links: list[NodeLink] = []
        self._keys: KeyAgent | None = None
        self._ahead = order.ahead
        self._silent = set(order.nodes)
        """Nodes that have not told of their isolation since the attempt was started or woken."""
        self._loading = set(order.nodes)
        self._beats: defaultdict[int, Beats] = defaultdict(Beats)
        self._over = False
        self._stopped = False
        self._closed = False
        with contextlib.ExitStack() as undone:
            self._lock = take_lock(order.folder, order.attempt, beside_others=order.ahead)
            undone.callback(os.close, self._lock)
            self._log = EventLog(order.folder.events)
            undone.callback(self._log.close)
            self._selector = selectors.EpollSelector()
            undone.pop_all()
            undone.callback(self._close)
            for node, ranks in _parts(order.nodes):
                self._links.append(self._start(node, ranks, with_keys))
                self._selector.register(self._links[-1], selectors.EVENT_READ, self._links[-1])
            undone.pop_all()

    def _start(self, node: str, ranks: range, with_keys: bool) -> NodeLink:
        order, site = self._order, self._site
        plan = NodePlan(
            home=str(site.home),
            project=str(site.project),
            run=order.run,
            run_folder=str(order.folder.path),
            attempt=order.attempt,
            node=node,
            first_rank=ranks.start,
            commands=tuple(order.commands[rank] for rank in ranks),
            environment=order.environment,
            with_keys=with_keys,
            writable=order.writable,
            rank_output=order.rank_output,
            open_because=order.open_because,
            ahead=order.ahead,
            datagrams=order.datagrams,
            interface=site.reach.interface,
        )
        now_s = self._clock.monotonic_s()
        return NodeLink.start(site.reach.command(node), plan, order.folder, ranks, now_s)

    def fileno(self) -> int:
        """For a selector: readable when a node has told something, or a link has ended."""
        return self._selector.fileno()

    # -- orders

    def serve_keys(self, keys: KeyAgent) -> None:
        """Every node serves its ranks under this lease from now on, and follows its renewals and its end."""
        self._keys = keys
        kek, wrapped = keys.share_rendezvous()
        self._tell_all(LeaseGiven.of(keys.lease, kek, wrapped))
        keys.show_on(self)

    def show(self, good_for_s: float) -> None:
        """The lease, as a key agent shows it."""
        self._tell_all(LeaseShown(good_for_s))

    def end(self, why: LeaseEnd) -> None:
        """The lease's end, as a key agent shows it."""
        self._tell_all(LeaseEnded(int(why)))

    def warm(self) -> None:
        self._tell_all(Warm())

    def can_begin(self, nodes: Sequence[str]) -> bool:
        """Of one that was started ahead: whether hosts with as many ranks wait on each of these nodes."""
        waiting = {link.node: len(link.ranks) for link in self._links if not (link.ended or link.lost)}
        return all(waiting.get(node) == len(ranks) for node, ranks in _parts(nodes))

    def wake(self, nodes: Sequence[str]) -> None:
        """The attempt begins on these nodes; hosts on others were not needed, and end."""
        self._ahead = False
        parts = dict(_parts(nodes))
        for link in self._links:
            if link.node in parts:
                link.ranks = parts[link.node]
                link.tell(Wake(link.ranks.start, (link.node,) * len(link.ranks)))
            else:
                link.released = True
                link.hang_up()
        self._silent = set(parts)

    def spawn(self) -> None:
        self._tell_all(Spawn())

    def save(self) -> None:
        self._tell_of(0, Save())

    def lose_node(self, node: str) -> None:
        for link in self._links:
            if link.node == node:
                link.tell(Lose(node))

    def signal_rank(self, rank: int, signal: int) -> None:
        self._tell_of(rank, Kill(rank, signal))

    def stop(self, grace_s: float, *, quiet: bool = False, stacks: bool = False) -> None:
        """Have every node end its ranks. Told so twice without grace, the links are cut."""
        self._tell_all(Stop(grace_s, quiet, stacks))
        if grace_s <= 0:
            for link in self._links if self._stopped else ():
                link.kill()
            self._stopped = True

    def note_rank(self, rank: int, pid: int) -> None:
        """Its node has noted it already."""

    def _tell_all(self, order: ToHost) -> None:
        for link in self._links:
            if not link.released:
                link.tell(order)

    def _tell_of(self, rank: int, order: Order) -> None:
        for link in self._links:
            if rank in link.ranks:
                link.tell(order)

    # -- what is heard

    def read(self) -> tuple[list[Event], bool]:
        """What all nodes have told since the last call, and whether every link has ended.

        Also looks which nodes are lost, so it is worth calling when nothing was told. Raises AgentFailed when
        a node could not begin or breaks the protocol.
        """
        told: list[Event] = []
        for key, _ in self._selector.select(0):
            told += self._hear(key.data)
        told += self._missing()
        if not self._ahead:
            self._record(told)
        self._over = self._over or all(link.ended for link in self._links if not link.released)
        return told, self._over

    def overdue(self) -> bool:
        """Whether a node has been silent for so long that `read` should look."""
        now_s = self._clock.monotonic_s()
        return any(self._is_late(link, now_s) for link in self._links)

    def _hear(self, link: NodeLink) -> Iterator[Event]:
        now_s = self._clock.monotonic_s()
        for said in link.read():
            link.heard_s = now_s
            match said:
                case Hello(mono_s):
                    link.clock_ahead_s = now_s - mono_s
                case Beat(strangers):
                    self._count(link, strangers)
                case Failed(message, hint):
                    raise AgentFailed(f"On node {link.node}: {message}", hint=hint)
                case Event() if not link.released:
                    event = replace(said, mono_s=min(said.mono_s + (link.clock_ahead_s or 0.0), now_s))
                    if self._is_news(event, link):
                        yield event
        if link.ended:
            self._selector.unregister(link)
            if not (link.well or link.lost or link.released):
                yield from self._ended_unwell(link)

    def _is_news(self, event: Event, link: NodeLink) -> bool:
        """Of what every node tells for itself the supervisor hears once, when the last one has told it."""
        awaited = {
            EventKind.ISOLATION_PROBED: self._silent,
            EventKind.STANDBY_LOADED: self._loading,
        }.get(event.kind)
        if not awaited:
            return True
        awaited.discard(link.node)
        return not awaited

    def _count(self, link: NodeLink, strangers: int) -> None:
        if self._keys is not None:
            self._keys.strangers += strangers - link.strangers
        link.strangers = strangers

    def _ended_unwell(self, link: NodeLink) -> Iterator[Event]:
        """A link ended without a word: the node is lost, or its host is; either way the attempt is over."""
        if not self._site.reach.answers(link.node):
            yield self._lose(link)
        if self._ahead:
            self._forget(link)
        else:
            self._tell_all(Stop(0.0))

    def _forget(self, link: NodeLink) -> None:
        """Nothing that every node tells is awaited of this one."""
        self._silent.discard(link.node)
        self._loading.discard(link.node)

    def _missing(self) -> Iterator[Event]:
        now_s = self._clock.monotonic_s()
        for link in self._links:
            if self._is_late(link, now_s):
                started = link.clock_ahead_s is not None
                if (
                    started
                    or now_s - link.heard_s > HELLO_WITHIN_S
                    or not self._site.reach.answers(link.node)
                ):
                    yield self._lose(link)

    def _is_late(self, link: NodeLink, now_s: float) -> bool:
        limit_s = LOST_AFTER_S if link.clock_ahead_s is not None else _DOUBT_AFTER_S
        return not (link.ended or link.lost or link.released) and now_s - link.heard_s > limit_s

    def _lose(self, link: NodeLink) -> Event:
        link.lost = True
        link.kill()
        self._forget(link)
        now_s, mono_s = self._clock.now_s(), self._clock.monotonic_s()
        fields = {"name": link.node}
        return Event(
            now_s, mono_s, RunId(self._order.run), self.number, -1, link.node, EventKind.NODE_LOST, fields
        )

    def _record(self, told: Sequence[Event]) -> None:
        now_s = self._clock.monotonic_s()
        for event in told:
            if self._beats[event.rank].worth_keeping(event, now_s):
                self._log.append(event)

    # -- its end

    def gone(self) -> bool:
        """Whether no process of the attempt exists any more, as far as its nodes are heard.

        Of a lost node nobody can say so: what may still run there can neither commit nor get a key anew.
        """
        for link in self._links:
            if link.ended:
                link.hang_up()
        if not all(link.gone() for link in self._links):
            return False
        self._close()
        return True

    def end_now(self, clock: Clock) -> None:
        """End everything and wait until it is gone: the way out of a supervisor that fails itself.

        Raises AgentFailed when a link does not end even so.
        """
        for link in self._links:
            link.hang_up()
        deadline_s = clock.monotonic_s() + _PATIENCE_S
        while not self.gone():
            if clock.monotonic_s() > deadline_s:
                for link in self._links:
                    link.kill()
            if clock.monotonic_s() > deadline_s + _PATIENCE_S:
                raise AgentFailed(f"The links of attempt {self.number} do not end even when they are killed.")
            for key, _ in self._selector.select(0.01):  # what is not read keeps a link from ending
                key.data.read()
                if key.data.ended:
                    self._selector.unregister(key.data)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for link in self._links:
            link.kill()
            link.close()
            link.process.wait()
        self._selector.close()
        self._log.close()
        os.close(self._lock)


def _parts(nodes: Sequence[str]) -> Iterator[tuple[str, range]]:
    """Each node with its ranks; they follow one another."""
    for node in dict.fromkeys(nodes):
        first = nodes.index(node)
        yield node, range(first, first + nodes.count(node))
