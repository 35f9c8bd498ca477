"""The shell around the run state machine: it carries out instructions and turns what happens into inputs.

One thread, one loop. What to do is decided in machine.py; see docs/design/fleet.md, "The supervisor".
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, EventLog, Section
from stoker.core.isolation import Isolation, IsolationState, Outside, listening_outside
from stoker.core.progress import Progress, Task
from stoker.core.result import plain
from stoker.fleet.attempt import AttemptOrder
from stoker.fleet.attempt_story import AttemptStory
from stoker.fleet.attribution import Attribution
from stoker.fleet.charge import Charge, Errands
from stoker.fleet.drawing import Drawing
from stoker.fleet.errors import IsolationLost, IsolationRefused
from stoker.fleet.faults import Faults, LoseNode
from stoker.fleet.lease_keeper import LeaseKeeper
from stoker.fleet.machine import transition, validate
from stoker.fleet.run_state import (
    ENDED,
    AttemptOver,
    Begin,
    Cancel,
    Committed,
    EndRun,
    Exited,
    Gone,
    Heard,
    Input,
    Instruction,
    Leave,
    Named,
    NodeBack,
    NodeLost,
    Phase,
    Ready,
    Refused,
    Regroup,
    ReportHang,
    RestartPlanned,
    RunState,
    SaveNow,
    StartAttempt,
    StopAttempt,
    Tick,
    begin_state,
)
from stoker.fleet.signals import signals_as_bytes
from stoker.fleet.spread.begin import AnyAttempt, begin_attempt
from stoker.fleet.stacks import waited_for
from stoker.fleet.standby import StandbyKeeper
from stoker.fleet.verdict import RunError, Verdict, explain
from stoker.keys.lease_page import LeaseEnd
from stoker.spec.run import Device, IsolationPolicy

_TICK_S: Final = 0.25
_PROBES_MISSED: Final = 3
_PROBE_LATE_S: Final = 30.0
_LEAVING_S: Final = 0.005
"""How often the supervisor looks whether the last process of an attempt is gone."""

_CANCELLING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEAVING: Final = (signal.SIGUSR1,)
"""A launcher says so that the time on this node is nearly up."""


class Supervisor:
    """Keeps one run alive until it is finished, has failed, or is cancelled."""

    def __init__(self, charge: Charge, errands: Errands, progress: Progress, clock: Clock) -> None:
        self._charge = charge
        self._errands = errands
        self._progress = progress
        self._clock = clock
        self._state: RunState = begin_state(
            charge.folder.attempts_so_far(), errands.resume_step(), charge.failures_in_row
        )
        self._attempt: AnyAttempt | None = None
        self._ended_socket = False
        self._lease = LeaseKeeper(errands, self._tell, clock)
        self._faults = Faults(charge.faults)
        self._errors: dict[int, RunError] = {}
        self._stacks: dict[int, tuple[str, ...]] = {}
        self._story = AttemptStory(charge.witnesses)
        self._refusal: StokerError | None = None
        self._isolation = Isolation(IsolationState.OPEN, "no attempt was started")
        self._probed_at_s = 0.0
        self._end: EndRun | None = None
        self._selector = selectors.DefaultSelector()
        self._log = EventLog(charge.folder.events)
        self._drawing = Drawing(charge.folder, charge.wandb)
        self._outside = Outside(0, "")
        self._standby = StandbyKeeper(charge, self._selector, self._tell, clock)
        self._task: Task | None = None
        self._shown_step = self._state.committed_step

    def run(self) -> Verdict:
        """Begin, and return when the run is over and none of its processes exists any more."""
        charge = self._charge
        resumed = self._state.attempt > 0
        self._tell(
            EventKind.RUN_STARTED,
            steps=charge.steps,
            world_size=charge.policy.world_size,
            session="resumed" if resumed else "new",
            forgiven=charge.forgiven,
            why=charge.left_open,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._log.close)
            stack.callback(self._drawing.close)
            stack.callback(self._selector.close)
            stack.callback(self._end_whatever_lives)
            self._outside = stack.enter_context(listening_outside())
            wake_fd = stack.enter_context(signals_as_bytes((*_CANCELLING, *_LEAVING)))
            self._selector.register(wake_fd, selectors.EVENT_READ, "signals")
            self._task = stack.enter_context(self._progress.task("train", charge.steps, "steps"))
            self._task.advance(self._shown_step)
            self._feed(Begin(self._now_s()))
            while self._state.phase not in ENDED:
                self._turn(wake_fd)
        assert self._end is not None
        return Verdict(self._end.outcome, self._error(self._end), self._isolation)

    # -- what happens

    def _turn(self, wake_fd: int) -> None:
        patience_s = _LEAVING_S if self._ended_socket else _TICK_S
        for key, _ in self._selector.select(patience_s):
            if key.fd == wake_fd:
                # Signals that other parts of this process handle are told here too, and passed over.
                for number in os.read(wake_fd, 64):
                    self._signalled(number)
            elif key.fileobj is self._attempt:
                self._listen()
            else:
                self._listen_to_standby()
        self._renew_lease()
        self._lease.tell_strangers()
        attempt = self._attempt
        if attempt is not None and not self._ended_socket and attempt.overdue():
            self._listen()
        if attempt is not None and self._ended_socket and attempt.gone():
            self._attempt_gone()
        if self._standby.overdue:
            self._listen_to_standby()
        self._inject_faults()
        self._bring_nodes_back()
        self._standby.tend(self._state, self._ahead)
        self._feed(Tick(self._now_s()))

    def _listen_to_standby(self) -> None:
        """A spare node may be lost before it is needed; of one with ranks the attempt itself tells."""
        for node in self._standby.listen():
            if node not in self._state.lost and node not in self._state.place:
                self._tell(EventKind.NODE_LOST, name=node)
                self._feed(NodeLost(self._now_s(), node))

    def _signalled(self, number: int) -> None:
        if number in _LEAVING:
            self._tell(EventKind.CANCEL_REQUESTED, reason="time-nearly-up")
            self._feed(Leave(self._now_s()))
        elif number in _CANCELLING:
            self._tell(EventKind.CANCEL_REQUESTED)
            self._feed(Cancel(self._now_s()))

    def _listen(self) -> None:
        assert self._attempt is not None
        events, ended = self._attempt.read()
        if ended:
            self._selector.unregister(self._attempt)
            self._ended_socket = True
        for event in events:
            self._hear(event)

    def _attempt_gone(self) -> None:
        number = self._state.attempt
        self._lease.close()
        self._attempt, self._ended_socket = None, False
        self._feed(Gone(self._now_s(), number))

    def _hear(self, event: Event) -> None:
        now_s, attempt, rank = self._now_s(), event.attempt, event.rank
        self._drawing.take(event)
        self._story.note(event)
        if event.kind is EventKind.ISOLATION_PROBED:
            self._probed(Isolation(IsolationState(event.text("state")), event.text("reason")))
        elif event.kind is EventKind.RANK_SPAWNED and self._attempt is not None:
            self._attempt.note_rank(rank, int(event.number("pid")))
        elif event.kind is EventKind.HEARTBEAT:
            with contextlib.suppress(ValueError):
                section = Section(event.text("section"))
                self._feed(Heard(now_s, attempt, rank, section, int(event.number("step"))))
        elif event.kind is EventKind.RANK_READY:
            self._feed(Ready(now_s, attempt, rank))
        elif event.kind is EventKind.STEP and rank == 0:
            self._stepped(event)
        elif event.kind is EventKind.CHECKPOINT_COMMITTED and rank == 0:
            self._errands.committed(event)
            self._feed(Committed(now_s, attempt, int(event.number("step"))))
        elif event.kind is EventKind.EVALUATION:
            self._moved(event, Section.EVALUATE)
        elif event.kind is EventKind.NODE_LOST:
            self._feed(NodeLost(now_s, event.text("name")))
        elif event.kind is EventKind.RANK_STACK:
            self._stood(event)
        elif event.kind is EventKind.RANK_ERROR:
            text = event.text
            code = int(event.number("exit_code"))
            self._errors[rank] = RunError(text("error_id"), text("message"), text("hint"), code)
        elif event.kind is EventKind.RANK_EXITED:
            code, number = int(event.number("exit_code")), int(event.number("signal"))
            self._feed(Exited(now_s, attempt, rank, code, number))

    def _stepped(self, event: Event) -> None:
        step = int(event.number("step"))
        self._moved(event, Section.OPTIMIZER)
        if self._task is not None:
            self._task.advance(max(step - self._shown_step, 0))
            self._shown_step = max(step, self._shown_step)
            again = "" if step == self._shown_step else ", again"
            self._task.describe(f"loss {event.number('loss'):.3f}, attempt {event.attempt}{again}")
        self._faults.step = step
        self._inject_faults()

    def _inject_faults(self) -> None:
        if self._attempt is None or self._state.phase is not Phase.TRAINING:
            return
        for fault in self._faults.due(loaded=self._standby.loaded):
            tell = partial(self._tell, EventKind.FAULT_INJECTED, step=self._faults.step)
            if isinstance(fault, LoseNode):
                tell(fault="lose_node", node_lost=fault.node)
                self._attempt.lose_node(fault.node)
                self._faults.lost(fault)
            else:
                tell(fault=fault.name, target=fault.rank)
                self._attempt.signal_rank(fault.rank, fault.signal)

    def _bring_nodes_back(self) -> None:
        for node in self._faults.back():
            self._tell(EventKind.NODE_BACK, name=node)
            self._feed(NodeBack(self._now_s(), node))

    def _stood(self, event: Event) -> None:
        """Where a rank of an attempt that hung stands; with the last one, which rank the others wait for."""
        frames = event.fields["frames"]
        assert isinstance(frames, list)
        self._stacks[event.rank] = tuple(map(str, frames))
        ranks = len(self._state.ranks)
        if len(self._stacks) == ranks and (rank := waited_for(self._stacks, ranks)) is not None:
            self._tell(EventKind.HANG_NAMED, rank=rank, waiting=ranks - 1)
            self._feed(Named(self._now_s(), event.attempt, rank))

    def _moved(self, event: Event, section: Section) -> None:
        """News that is progress by itself."""
        if 0 <= event.rank < len(self._state.ranks):
            step = int(event.number("step")) if event.kind is EventKind.STEP else 0
            known = self._state.ranks[event.rank]
            now_s = self._now_s()
            self._feed(Heard(now_s, event.attempt, event.rank, section, max(step, known.step), moved=True))

    def _probed(self, found: Isolation) -> None:
        """The lease is given, and the ranks are spawned, only after the first word; a red one ends both."""
        before, self._isolation = self._isolation, found
        self._probed_at_s = self._now_s()
        if self._lease.given:
            if before.state is IsolationState.ISOLATED and found.state is not IsolationState.ISOLATED:
                lost = IsolationLost(
                    f"A way out of the run's network was found while it ran: {found.reason}.",
                    hint="Find out what opened it. Then go on from the last checkpoint.",
                )
                self._lease.end(lost, LeaseEnd.ISOLATION)
                self._refuse(lost)
            return
        if self._attempt is None or self._state.phase is not Phase.STARTING:
            return
        required = self._charge.isolation is IsolationPolicy.REQUIRED
        try:
            if required and found.state is not IsolationState.ISOLATED:
                raise IsolationRefused(
                    f"The run asks for network isolation and does not have it: {found.reason}.",
                    hint="Allow user namespaces on this machine or run as root, or ask for less isolation.",
                )
            self._lease.give(self._state.attempt, self._attempt)
        except StokerError as error:
            self._refuse(error)
            return
        self._attempt.spawn()

    def _renew_lease(self) -> None:
        if self._probe_is_late():
            return
        error = self._lease.renew()
        if error is not None:
            self._refuse(error)

    def _probe_is_late(self) -> bool:
        """A lease is renewed only while the agent goes on telling that its ranks are isolated."""
        if self._isolation.state is not IsolationState.ISOLATED:
            return False
        patience_s = _PROBES_MISSED * self._charge.probe_every_s + _PROBE_LATE_S
        return self._now_s() - self._probed_at_s > patience_s

    # -- what is to be done

    def _feed(self, given: Input) -> None:
        self._state, instructions = transition(self._charge.policy, self._state, given)
        validate(self._charge.policy, self._state)
        for each in instructions:
            self._carry_out(each)

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, StartAttempt):
            self._start_attempt(instruction.attempt)
        elif isinstance(instruction, SaveNow):
            if self._attempt is not None:
                self._attempt.save()
        elif isinstance(instruction, StopAttempt):
            self._stop_attempt(instruction)
        elif isinstance(instruction, ReportHang):
            self._tell(
                EventKind.RANK_HUNG,
                rank=instruction.rank,
                silent_s=instruction.silent_s,
                section=instruction.section.value,
            )
        elif isinstance(instruction, Regroup):
            self._tell(EventKind.REGROUPING, reason=instruction.reason)
        elif isinstance(instruction, AttemptOver):
            attempt, why = instruction.attempt, self._why(instruction)
            self._tell(EventKind.ATTEMPT_ENDED, attempt=attempt, why=why, outcome=instruction.outcome)
        elif isinstance(instruction, RestartPlanned):
            self._tell(EventKind.RESTART_SCHEDULED, delay_s=instruction.delay_s, reason=instruction.reason)
        else:
            self._end = instruction
            error = self._error(instruction)
            self._tell(
                EventKind.RUN_ENDED,
                outcome=instruction.outcome.value,
                error_id="" if error is None else error.error_id,
                message="" if error is None else error.message,
                hint="" if error is None else error.hint,
                exit_code=0 if error is None else error.exit_code,
            )

    def _start_attempt(self, number: int) -> None:
        charge = self._charge
        self._errors.clear()
        self._stacks.clear()
        charge.folder.attempt(number).mkdir(mode=0o700, exist_ok=True)
        try:
            commands = self._errands.prepare(number, len(self._state.place))
            self._tell(
                EventKind.ATTEMPT_STARTED,
                world_size=len(self._state.place),
                placed=list(self._state.place),
                nodes=len(set(self._state.place)),
                spares=len(set(charge.policy.room.nodes) - self._state.lost - set(self._state.place)),
                resume_step=self._errands.resume_step(),
                links=[plain(link) for link in charge.links],
                device=charge.device.device.value,
                device_because=charge.device.because,
            )
            order = self._order(number, commands)
            self._attempt = self._standby.take(order) or begin_attempt(
                order, charge.site, charge.hand, self._clock
            )
        except StokerError as error:
            self._refuse(error)
            return
        self._selector.register(self._attempt, selectors.EVENT_READ)

    def _ahead(self, number: int) -> AttemptOrder:
        """What the next attempt is made of; real nodes that stand by have processes of it, too."""
        place = self._state.place
        if self._charge.site is not None:
            room = self._charge.policy.room
            living = [node for node in room.nodes if node not in self._state.lost]
            place = tuple(node for node in living for _ in range(room.node_ranks))
        order = self._order(number, self._errands.commands(number, len(place)))
        return replace(order, nodes=place, ahead=True)

    def _order(self, number: int, commands: Sequence[Sequence[str]]) -> AttemptOrder:
        charge = self._charge
        return AttemptOrder(
            folder=charge.folder,
            run=charge.run,
            attempt=number,
            nodes=self._state.place,
            commands=tuple(map(tuple, commands)),
            environment=charge.environment,
            isolation=charge.isolation,
            outside=self._outside,
            isolate_by=charge.isolate_by,
            probe_every_s=charge.probe_every_s,
            writable=self._writable(number),
            rank_output=charge.rank_output,
            datagrams=charge.device.device is Device.CUDA and len(commands) > 1,
            open_because=charge.open_because,
        )

    def _writable(self, number: int) -> tuple[str, ...] | None:
        if self._charge.writable is None:
            return None
        return tuple(str(each) for each in (self._charge.folder.attempt(number), *self._charge.writable))

    def _refuse(self, error: StokerError) -> None:
        self._refusal = error
        number = self._state.attempt
        self._feed(Refused(self._now_s(), number))
        if self._attempt is None:
            self._feed(Gone(self._now_s(), number))

    def _stop_attempt(self, instruction: StopAttempt) -> None:
        if instruction.grace_s <= 0 or instruction.quiet:
            self._lease.revoke()
        if self._attempt is not None:
            quiet = instruction.quiet or instruction.last_words
            self._attempt.stop(instruction.grace_s, quiet=quiet, stacks=instruction.stacks)

    def _end_whatever_lives(self) -> None:
        """On any way out, expected or not, no process of the run stays behind."""
        try:
            if self._attempt is not None:
                self._attempt.end_now(self._clock)
            self._standby.end()
        finally:
            self._lease.close()

    def _error(self, end: EndRun) -> RunError | None:
        return explain(end, self._errors, self._refusal, self._charge, self._state.attempt)

    def _why(self, over: AttemptOver) -> Attribution | None:
        """What a failed attempt died of, to be told with its end."""
        if over.outcome != Phase.FAILED:
            return None
        refused = "" if self._refusal is None else self._refusal.id
        return self._story.attribution(over.attempt, refused, self._clock.now_s())

    def _tell(
        self,
        kind: EventKind,
        *,
        rank: int = -1,
        attempt: int | None = None,
        why: Attribution | None = None,
        **fields: JsonValue,
    ) -> None:
        """`attempt` is the newest one, unless another is named."""
        charge = self._charge
        number = self._state.attempt if attempt is None else attempt
        now_s, mono_s = self._clock.now_s(), self._clock.monotonic_s()
        if why is not None:
            fields.update(why.fields())
        event = Event(now_s, mono_s, charge.run, number, rank, charge.node, kind, fields)
        self._story.note(event)
        self._log.append(event)
        self._drawing.take(event)

    def _now_s(self) -> float:
        return self._clock.monotonic_s()
