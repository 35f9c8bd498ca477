"""When the time on a node is nearly up: a checkpoint first, then the end, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.events import EventKind, Section, read_events
from stoker.fleet.machine import transition, validate
from stoker.fleet.run_state import (
    Begin,
    Committed,
    EndRun,
    Exited,
    Gone,
    Heard,
    Input,
    Instruction,
    Leave,
    Phase,
    Policy,
    Ready,
    RunState,
    SaveNow,
    StopAttempt,
    Tick,
    begin_state,
)
from support.fake_house import FakeErrands, a_policy, make_folder, supervise

POLICY = Policy(2, restarts=3, hang_after_s=600.0, start_within_s=180.0, leave_within_s=60.0)
TRAINING = (Begin(0.0), Ready(1.0, 1, 0), Ready(1.0, 1, 1), Heard(2.0, 1, 0, Section.COMPUTE, 7))


def drive(*inputs: Input, state: RunState | None = None) -> tuple[RunState, list[Instruction]]:
    state, instructions = state or begin_state(), []
    for each in inputs:
        state, instructions = transition(POLICY, state, each)
        validate(POLICY, state)
    return state, instructions


def test_a_checkpoint_is_asked_for_once_and_then_the_run_ends() -> None:
    state, asked = drive(*TRAINING, Leave(3.0))
    assert asked == [SaveNow(1)]
    state, again = drive(Leave(4.0), state=state)
    assert again == []
    state, older = drive(Committed(5.0, 1, 6), state=state)
    assert older == [], "a checkpoint of before the step that was under way came to its end"
    state, stop = drive(Committed(6.0, 1, 7), state=state)
    assert stop == [StopAttempt(1, POLICY.stop_grace_s)]
    _, end = drive(Gone(7.0, 1), state=state)
    assert end[-1] == EndRun(Phase.CANCELLED, None)


def test_a_checkpoint_that_does_not_come_is_not_waited_for_for_ever() -> None:
    state, _ = drive(*TRAINING, Leave(3.0), Tick(62.0))
    assert state.phase is Phase.TRAINING
    _, late = drive(Tick(63.5), state=state)
    assert late == [StopAttempt(1, POLICY.stop_grace_s)]


@pytest.mark.parametrize("before", [TRAINING[:1], TRAINING[:2]])
def test_what_has_nothing_to_save_ends_at_once(before: tuple[Input, ...]) -> None:
    _, stop = drive(*before, Leave(2.0))
    assert stop == [StopAttempt(1, POLICY.stop_grace_s)]


def test_an_attempt_that_fails_meanwhile_is_not_followed_by_another_here() -> None:
    state, _ = drive(*TRAINING, Leave(3.0), Exited(4.0, 1, 1, 0, 9))
    _, end = drive(Gone(5.0, 1), state=state)
    assert isinstance(end[-1], EndRun) and end[-1].outcome is Phase.CANCELLED


def test_a_signalled_supervisor_leaves_with_a_checkpoint_of_its_last_step(tmp_path: Path) -> None:
    errands = FakeErrands(make_folder(tmp_path / "run"), steps=10_000, checkpoint_every=10_000)

    def signal_after_some_steps() -> None:
        while b'"step": 20,' not in (
            errands.folder.events.read_bytes() if errands.folder.events.exists() else b""
        ):
            waiting.wait(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    waiting = threading.Event()
    sender = threading.Thread(target=signal_after_some_steps)
    sender.start()
    verdict = supervise(replace(errands), policy=a_policy(hang_after_s=30.0))
    sender.join()
    assert verdict.outcome is Phase.CANCELLED
    told = read_events(errands.folder.events).events
    (asked,) = [each for each in told if each.kind is EventKind.CANCEL_REQUESTED]
    assert asked.text("reason") == "time-nearly-up"
    steps = [int(each.number("step")) for each in told if each.kind is EventKind.STEP]
    (commit,) = [int(each.number("step")) for each in told if each.kind is EventKind.CHECKPOINT_COMMITTED]
    assert 20 <= commit <= max(steps)
    assert max(steps) - commit < 20, "it goes on only until the checkpoint is known to stand"
