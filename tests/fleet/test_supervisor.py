"""The supervisor with real processes: an agent and fake ranks that fail in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import BadName, DiskFull
from stoker.core.events import EventKind
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.attribution import Witness
from stoker.fleet.faults import KillRank
from stoker.fleet.goodput import account
from stoker.fleet.run_state import Phase
from stoker.fleet.taxonomy import Source
from support.fake_house import FakeErrands, a_policy, make_folder, supervise, told

K = EventKind


@pytest.fixture
def errands(tmp_path: Path) -> FakeErrands:
    return FakeErrands(make_folder(tmp_path / "run"))


def deed(do: str, *, rank: int = 1, at_step: object = 3, attempt: object = 1, **more: Any) -> dict[str, Any]:
    return {"do": do, "rank": rank, "at_step": at_step, "attempt": attempt, **more}


def steps_done(errands: FakeErrands) -> list[tuple[int, int]]:
    """Each step event as (attempt, step)."""
    return [(event.attempt, int(event.number("step"))) for event in told(errands.folder, K.STEP)]


def nothing_is_left(errands: FakeErrands) -> bool:
    return held_lock(errands.folder) is None


def test_a_run_without_failure_finishes(errands: FakeErrands) -> None:
    verdict = supervise(errands)
    assert (verdict.outcome, verdict.error) == (Phase.FINISHED, None)
    assert steps_done(errands) == [(1, step) for step in range(1, 7)]
    assert [int(each.number("step")) for each in errands.recorded] == [2, 4, 6]
    outline = [
        event.kind
        for event in told(errands.folder, K.RUN_STARTED, K.ATTEMPT_STARTED, K.ATTEMPT_ENDED, K.RUN_ENDED)
    ]
    assert outline == [K.RUN_STARTED, K.ATTEMPT_STARTED, K.ATTEMPT_ENDED, K.RUN_ENDED]
    assert {(e.rank, e.number("exit_code")) for e in told(errands.folder, K.RANK_EXITED)} == {
        (0, 0.0),
        (1, 0.0),
    }
    assert nothing_is_left(errands)


def test_a_killed_rank_is_told_and_the_run_goes_on_from_the_last_checkpoint(errands: FakeErrands) -> None:
    errands.steps = 8
    errands.deeds = [deed("stand_still", rank=rank, at_step=6) for rank in (0, 1)]
    verdict = supervise(errands, faults=[KillRank(rank=1, at_step=5)])
    assert verdict.outcome is Phase.FINISHED
    (fault,) = told(errands.folder, K.FAULT_INJECTED)
    assert (fault.text("fault"), fault.number("step"), fault.number("target")) == ("kill_rank", 5, 1)
    killed = [
        e.rank for e in told(errands.folder, K.RANK_EXITED) if e.attempt == 1 and e.number("signal") == 9
    ]
    assert sorted(killed) == [0, 1]
    second = [step for attempt, step in steps_done(errands) if attempt == 2]
    assert second == list(range(5, 9))
    (restart,) = told(errands.folder, K.RESTART_SCHEDULED)
    assert (restart.number("delay_s"), restart.text("reason")) == (0.0, "rank 1 was ended by signal 9")


def test_the_end_of_a_failed_attempt_says_what_it_died_of(errands: FakeErrands) -> None:
    seen = [Witness(time.time(), "local", Source.KERNEL, "NVRM: Xid (PCI:0000:4e:00): 79, fell off the bus")]
    errands.deeds = [
        deed("signal", signal=signal.SIGKILL),
        deed("stand_still", rank=0, at_step=4),
        deed("exit", code=59, at_step="start", attempt=2),
    ]
    verdict = supervise(errands, witnesses=lambda attempt: seen if attempt == 2 else ())
    first, second = told(errands.folder, EventKind.ATTEMPT_ENDED)
    assert [first.fields[name] for name in ("failure_kind", "component", "culprit_rank", "culprit_node")] == [
        "system_software",
        "process",
        1,
        "local",
    ]
    assert (second.fields["failure_kind"], second.fields["component"]) == ("hardware", "pcie")
    assert verdict.outcome is Phase.FAILED
    (other,) = [each for each in told(errands.folder, EventKind.RANK_EXITED) if each.fields["ordered"]][:1]
    assert (other.rank, other.number("signal")) == (0, signal.SIGKILL)


def test_a_signal_that_something_else_handles_cancels_nothing(errands: FakeErrands) -> None:
    errands.deeds = [deed("stand_still"), deed("stand_still", rank=0, at_step=4)]
    heard: list[int] = []
    earlier = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    sender = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR2))
    sender.start()
    try:
        verdict = supervise(errands, policy=a_policy(hang_after_s=2.5))
    finally:
        sender.join()
        signal.signal(signal.SIGUSR2, earlier)
    assert heard == [signal.SIGUSR2]
    assert verdict.outcome is Phase.FINISHED


def test_the_account_of_a_killed_run_adds_up(errands: FakeErrands) -> None:
    errands.deeds = [deed("stand_still", rank=rank, at_step=4) for rank in (0, 1)]
    supervise(errands, faults=[KillRank(rank=0, at_step=3)])
    goodput = account(told(errands.folder, *EventKind))
    assert (goodput.attempts, goodput.failures, goodput.faults_injected) == (2, 1, 1)
    assert (goodput.steps, goodput.steps_lost) == (6, 1)
    assert sum(goodput.seconds.values()) == pytest.approx(goodput.wall_s)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM])
def test_death_by_a_signal_is_followed_by_a_restart(errands: FakeErrands, number: int) -> None:
    errands.deeds = [deed("signal", rank=0, signal=int(number))]
    verdict = supervise(errands)
    assert verdict.outcome is Phase.FINISHED
    assert {attempt for attempt, _ in steps_done(errands)} == {1, 2}


def test_a_known_error_ends_the_run_with_its_own_words(errands: FakeErrands) -> None:
    errands.deeds = [deed("exit", code=57, report=True, attempt="any")]
    verdict = supervise(errands)
    assert verdict.outcome is Phase.FAILED
    assert verdict.error is not None
    assert (verdict.error.error_id, verdict.error.exit_code) == ("known-error", 57)
    assert (verdict.error.message, verdict.error.hint) == ("A known error.", "Mend it.")
    assert len(told(errands.folder, K.ATTEMPT_STARTED)) == 1


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(errands: FakeErrands) -> None:
    errands.deeds = [deed("nan", rank=0, attempt="any")]
    verdict = supervise(errands)
    assert verdict.error is not None
    assert (verdict.error.error_id, verdict.error.message) == (
        "non-finite-loss",
        "The loss of step 3 is NaN.",
    )
    assert errands.resume_step() == 2


def test_a_rank_that_always_fails_uses_up_the_budget(errands: FakeErrands) -> None:
    errands.deeds = [
        deed("exit", code=1, at_step="start", attempt="any"),
        deed("stand_still", rank=0, at_step="start", attempt="any"),
    ]
    verdict = supervise(errands, policy=a_policy(restarts=2))
    assert verdict.outcome is Phase.FAILED
    assert verdict.error is not None
    assert verdict.error.error_id == "restart-budget-spent"
    assert "2 restarts" in verdict.error.message
    assert "rank-1.log" in verdict.error.hint
    assert [event.attempt for event in told(errands.folder, K.ATTEMPT_STARTED)] == [1, 2, 3]
    assert [event.number("delay_s") for event in told(errands.folder, K.RESTART_SCHEDULED)] == [0.0, 0.01]


@pytest.mark.parametrize("how", ["stop", "stand_still"])
def test_a_rank_that_hangs_is_named_and_the_run_goes_on(errands: FakeErrands, how: str) -> None:
    """Every rank stands still at step 3, as ranks that wait for one another do; rank 1 is behind."""
    errands.deeds = [deed(how), deed("stand_still", rank=0, at_step=4)]
    verdict = supervise(errands, policy=a_policy(hang_after_s=2.5))
    assert verdict.outcome is Phase.FINISHED
    (hung,) = told(errands.folder, K.RANK_HUNG)
    assert (hung.attempt, hung.rank, hung.text("section")) == (1, 1, "compute")
    assert nothing_is_left(errands)


def test_an_attempt_that_is_not_ready_in_time_is_started_again(errands: FakeErrands) -> None:
    errands.deeds = [deed("stand_still", at_step="start")]
    verdict = supervise(errands, policy=a_policy(start_within_s=4.0))
    assert verdict.outcome is Phase.FINISHED
    (hung,) = told(errands.folder, K.RANK_HUNG)
    assert (hung.attempt, hung.rank, hung.text("section")) == (1, 1, "start_up")


def test_a_run_that_may_not_go_on_is_not_started_again(errands: FakeErrands) -> None:
    asked: list[int] = []

    def refuse_the_second() -> None:
        asked.append(1)
        if len(told(errands.folder, K.ATTEMPT_STARTED)) == 1 and told(errands.folder, K.RANK_EXITED):
            raise BadName("The review was revoked.", hint="Ask again.")

    errands.may_go_on = refuse_the_second
    errands.deeds = [deed("signal", signal=9)]
    verdict = supervise(errands)
    assert verdict.outcome is Phase.FAILED
    assert verdict.error is not None
    assert (verdict.error.message, verdict.error.exit_code) == ("The review was revoked.", BadName.exit_code)
    assert len(told(errands.folder, K.ATTEMPT_STARTED)) == 1
    assert nothing_is_left(errands)


def test_an_attempt_folder_is_only_for_its_owner(errands: FakeErrands) -> None:
    supervise(errands)
    folder = errands.folder.attempt(1)
    assert folder.stat().st_mode & 0o777 == 0o700
    logs = [errands.folder.rank_log(1, 0), errands.folder.rank_log(1, 1), errands.folder.agent_log(1)]
    assert [path.stat().st_mode & 0o777 for path in logs] == [0o600] * 3


def test_events_that_a_rank_may_not_tell_are_dropped_and_counted(errands: FakeErrands) -> None:
    errands.deeds = [deed("garbage", rank=0)]
    verdict = supervise(errands)
    assert verdict.outcome is Phase.FINISHED
    exited = next(event for event in told(errands.folder, K.RANK_EXITED) if event.rank == 0)
    assert exited.number("dropped_lines") == 4
    assert "still here" in [event.text("text") for event in told(errands.folder, K.SAMPLE)]
    assert len(told(errands.folder, K.RUN_ENDED)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_all_processes_and_is_named(small_disk: Path) -> None:
    errands = FakeErrands(make_folder(small_disk / "run"), steps=100_000, step_s=0.001)
    with pytest.raises(DiskFull, match="run"):
        supervise(errands)
    assert nothing_is_left(errands)
    assert steps_done(errands)[0] == (1, 1)
