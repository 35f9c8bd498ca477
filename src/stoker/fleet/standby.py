"""The next attempt's processes, started ahead: isolated, with everything imported, without job, keys or data.

See docs/design/fleet.md, "Started ahead".
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
from collections.abc import Callable, Sequence
from typing import Final

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind
from stoker.core.isolation import Isolation, IsolationState
from stoker.fleet.attempt import AttemptOrder
from stoker.fleet.charge import Charge
from stoker.fleet.run_state import Phase, RunState
from stoker.fleet.spread.begin import AnyAttempt, begin_attempt
from stoker.fleet.spread.spread_attempt import Site
from stoker.store.handed import StoreHand

AGAIN_AFTER_S: Final = 30.0
"""How long after one was lost the next is started."""


class Standby:
    """An attempt that waits for its time. What it tells is not in the run's events until it begins."""

    def __init__(self, order: AttemptOrder, hand: StoreHand | None, site: Site | None, clock: Clock) -> None:
        """Start its agent, which probes its isolation; its ranks follow. Raises as `begin_attempt` does."""
        self._order = order
        order.folder.attempt(order.attempt).mkdir(mode=0o700, exist_ok=True)
        try:
            self._attempt = begin_attempt(order, site, hand, clock)
        except StokerError:
            self._leave_no_trace()
            raise
        self._isolated: IsolationState | None = None
        self.loaded = False
        """Whether every rank waits with all that it needs in memory."""
        self.broken = ""
        """Why it is of no use; empty while it is."""
        self.lost: list[str] = []
        """Nodes that were lost while it waited, for whoever takes them out."""

    @property
    def number(self) -> int:
        return self._order.attempt

    def fileno(self) -> int:
        return self._attempt.fileno()

    def overdue(self) -> bool:
        return self._attempt.overdue()

    def listen(self) -> None:
        """Take what its agents have told."""
        events, ended = self._attempt.read()
        self._heed(events)
        if ended:
            self.broken = self.broken or "its agent has ended"

    def begin(self, order: AttemptOrder) -> AnyAttempt | None:
        """Let the attempt begin: its agent probes anew and tells it, and its ranks wait for `spawn`.

        None where it is of no use, or was started for another attempt or other ranks than `order` has. On
        which nodes those are may have changed since: which rank a process is it learns at its gate.
        """
        ours = self._order
        same = order.attempt == ours.attempt and order.commands == ours.commands[: len(order.commands)]
        if self.broken or self._isolated is None or not same or not self._attempt.can_begin(order.nodes):
            return None
        self._attempt.wake(order.nodes)
        return self._attempt

    def close(self, clock: Clock, *, keep_folder: bool = False) -> None:
        """End its processes, and leave no trace of an attempt that never was, unless it is to begin anew."""
        self._attempt.end_now(clock)
        if not keep_folder:
            self._leave_no_trace()

    def _leave_no_trace(self) -> None:
        shutil.rmtree(self._order.folder.attempt(self.number), ignore_errors=True)
        with contextlib.suppress(OSError):
            self._order.folder.attempt_lock(self.number).unlink()

    def _heed(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind is EventKind.ISOLATION_PROBED:
                self._probed(Isolation(IsolationState(event.text("state")), event.text("reason")))
            elif event.kind is EventKind.STANDBY_LOADED:
                self.loaded = True
            elif event.kind is EventKind.NODE_LOST:
                self.lost.append(event.text("name"))
            elif event.kind is EventKind.RANK_EXITED:
                self.broken = f"rank {event.rank} has ended"

    def _probed(self, found: Isolation) -> None:
        if self._isolated is None:
            self._attempt.warm()
        elif self._isolated is IsolationState.ISOLATED and found.state is not IsolationState.ISOLATED:
            self.broken = f"a way out of its network was found: {found.reason}"
        self._isolated = found.state


class StandbyKeeper:
    """Has the next attempt started ahead in time, and gives it up when it is of no use."""

    def __init__(
        self, charge: Charge, selector: selectors.BaseSelector, tell: Callable[..., None], clock: Clock
    ) -> None:
        """`tell` takes an event's kind and fields; the standby is in `selector` while there is one."""
        self._charge = charge
        self._selector = selector
        self._tell = tell
        self._clock = clock
        self._standby: Standby | None = None
        self._not_before_s = 0.0

    @property
    def loaded(self) -> bool:
        """Whether the next attempt waits with everything in memory."""
        return self._standby is not None and self._standby.loaded

    def tend(self, state: RunState, order_of: Callable[[int], AttemptOrder]) -> None:
        """Once an attempt has trained for a while, and another may follow it, start that one ahead."""
        charge, now_s = self._charge, self._clock.monotonic_s()
        if charge.standby_after_s is None or self._standby is not None or state.phase is not Phase.TRAINING:
            return
        since_s = max(state.phase_since_s + charge.standby_after_s, self._not_before_s)
        if now_s < since_s or state.restarts_used >= charge.policy.restarts:
            return
        try:
            self._standby = Standby(order_of(state.attempt + 1), charge.hand, charge.site, self._clock)
        except StokerError as error:
            self._lose(error.message)
            return
        self._selector.register(self._standby, selectors.EVENT_READ)

    def listen(self) -> Sequence[str]:
        """Take what it has told. The nodes that it saw as lost."""
        standby = self._standby
        if standby is None:
            return ()
        loaded = standby.loaded
        standby.listen()
        if standby.broken:
            self._lose(standby.broken)
        elif standby.loaded and not loaded:
            self._tell(EventKind.STANDBY_LOADED)
        lost, standby.lost = standby.lost, []
        return lost

    @property
    def overdue(self) -> bool:
        """Whether it should be listened to, though it told nothing."""
        return self._standby is not None and self._standby.overdue()

    def take(self, order: AttemptOrder) -> AnyAttempt | None:
        """The attempt that `order` asks for, when it was started ahead; whatever else waits is ended."""
        standby = self._standby
        if standby is None:
            return None
        attempt = standby.begin(order)
        if attempt is None:
            self.end(keep_folder=standby.number == order.attempt)  # the attempt's job file is in it already
            return None
        self._selector.unregister(standby)
        self._standby = None
        return attempt

    def end(self, *, keep_folder: bool = False) -> None:
        """Nothing waits any more."""
        standby, self._standby = self._standby, None
        if standby is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(standby)
            standby.close(self._clock, keep_folder=keep_folder)

    def _lose(self, reason: str) -> None:
        """The run goes on without it, and another one is tried later."""
        self._not_before_s = self._clock.monotonic_s() + AGAIN_AFTER_S
        self._tell(EventKind.STANDBY_LOST, reason=reason)
        self.end()
