"""A hang found by what steps usually take, where every rank stood, and which one the others waited for."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.events import EventKind, Section
from stoker.core.gates import STACK_SIGNAL
from stoker.fleet.launch import start_run
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.section_limits import ENOUGH, FACTOR, SectionTimes
from stoker.fleet.stacks import main_stack, waited_for, waits_for_others
from stoker.ledger.records import RunOutcome
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from support import stuck_worker
from support.fake_house import told
from support.promise_home import PURPOSE, PromiseHome, open_letters_home
from support.watching import Watching

K = EventKind
BOUNDS = {"at_least_s": 2.0, "at_most_s": 60.0}
GATHERING = ("/x/torch/distributed/distributed_c10d.py:3000 all_gather", "/x/train/step.py:9 step")
READING = ("/x/feed/stream.py:70 __next__", "/x/train/step.py:5 step", "/x/worker.py:1 <module>")


def times_of(section: Section, *seconds: float) -> SectionTimes:
    times = SectionTimes()
    for each in seconds:
        times = times.after(section, each)
    return times


def test_a_limit_is_learnt_only_from_enough_steps() -> None:
    few = times_of(Section.COMPUTE, *[0.5] * (ENOUGH - 1))
    assert few.limit_s(Section.COMPUTE, **BOUNDS) == 60.0
    assert few.after(Section.COMPUTE, 0.5).limit_s(Section.COMPUTE, **BOUNDS) == pytest.approx(FACTOR * 0.5)
    assert few.after(Section.COMPUTE, 0.5).limit_s(Section.DATA, **BOUNDS) == 60.0


def test_a_first_step_that_compiled_is_forgotten() -> None:
    times = times_of(Section.COMPUTE, 50.0, *[0.3] * ENOUGH)
    assert times.limit_s(Section.COMPUTE, **BOUNDS) == 60.0
    for _ in range(100):
        times = times.after(Section.COMPUTE, 0.3)
    assert times.limit_s(Section.COMPUTE, **BOUNDS) == pytest.approx(FACTOR * 0.3)


def test_what_no_step_has_is_not_learnt() -> None:
    rare = times_of(Section.CHECKPOINT, *[0.1] * 100)
    assert rare.limit_s(Section.CHECKPOINT, **BOUNDS) == 60.0


@given(st.lists(st.floats(0.0, 1e6), max_size=60), st.sampled_from(Section))
def test_a_limit_is_always_within_its_bounds(seconds: list[float], section: Section) -> None:
    limit_s = times_of(section, *seconds).limit_s(section, **BOUNDS)
    assert 2.0 <= limit_s <= 60.0
    if len(seconds) >= ENOUGH and limit_s < 60.0:
        assert limit_s >= seconds[-1]


def test_the_main_stack_is_read_from_what_faulthandler_writes() -> None:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        text = file.read()
    mine = f"{__file__}:"
    stack = main_stack(text)
    assert stack[0].startswith(mine)
    assert stack[0].endswith(" test_the_main_stack_is_read_from_what_faulthandler_writes")
    assert stack[-1].endswith((" <module>", " _run_module_as_main"))
    assert main_stack("".join(text.splitlines(keepends=True)[:-6])) == ()
    assert main_stack("Thread 0x1 (most recent call first):\n  secret words\n") == ()


@pytest.mark.parametrize(
    ("stacks", "ranks", "named"),
    [
        ({0: GATHERING, 1: READING}, 2, 1),
        ({0: GATHERING, 1: (), 2: GATHERING}, 3, 1),
        ({0: GATHERING, 2: GATHERING}, 3, 1),
        ({0: READING, 1: READING}, 2, None),
        ({0: GATHERING, 1: GATHERING}, 2, None),
        ({0: READING}, 1, None),
    ],
)
def test_the_one_that_did_not_enter_is_named(
    stacks: dict[int, tuple[str, ...]], ranks: int, named: int | None
) -> None:
    assert waited_for(stacks, ranks) == named


def test_only_frames_of_collectives_wait() -> None:
    assert waits_for_others(GATHERING)
    assert not waits_for_others(READING)


SPEC = RunSpec(
    dataset="text",
    purpose=PURPOSE,
    model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(steps=24, global_batch=2, warmup_steps=2, checkpoint_every_steps=4),
    launch=LaunchSpec(
        restarts=2,
        isolation=IsolationPolicy.REQUIRED,
        hang_after_s=8.0,
        hang_at_least_s=4.0,
        standby_after_s=0.0,
    ),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0, exposure_candidates=0),
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[PromiseHome]:
    with open_letters_home(tmp_path) as found:
        yield found


def test_a_real_rank_that_is_stuck_is_named_with_its_stack_and_the_run_goes_on(home: PromiseHome) -> None:
    """Two ranks of torch: rank 0 waits in a collective for rank 1, which reads what never comes."""
    summary = start_run(
        SPEC,
        home=home.home,
        ledger=home.ledger,
        backend=home.backend,
        store_url=home.home.store_dir.as_uri(),
        actor="asker",
        progress=Watching(),
        clock=home.clock,
        rank_command=(sys.executable, "-P", stuck_worker.__file__),
    )
    assert summary.outcome is RunOutcome.FINISHED
    folder = RunFolder.of(home.home.runs_dir, summary.run)
    stacks = {each.rank: each.fields["frames"] for each in told(folder, K.RANK_STACK)}
    assert set(stacks) == {0, 1}
    assert any(" wait_for_what_never_comes" in frame for frame in stacks[1])
    assert waits_for_others(tuple(stacks[0])) and not waits_for_others(tuple(stacks[1]))
    (named,) = told(folder, K.HANG_NAMED)
    assert (named.attempt, named.rank) == (1, 1)
    (restart,) = told(folder, K.RESTART_SCHEDULED)
    assert restart.text("reason") == "rank 1 hung"
    assert [each.attempt for each in told(folder, K.RUN_ENDED)] == [2]


def test_a_rank_that_a_signal_holds_is_not_waited_for() -> None:
    from stoker.fleet.rank_process import RankProcess

    listens = f"faulthandler.register({int(STACK_SIGNAL)}, file=open('/dev/null', 'w'))"
    program = f"import faulthandler, sys; {listens}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one:
        assert one.stdout is not None and one.stdout.readline() == b"ready\n"
        rank = RankProcess(one)
        assert rank.ask_for_stack()
        os.kill(one.pid, signal.SIGSTOP)
        os.waitpid(one.pid, os.WUNTRACED)
        assert not rank.ask_for_stack()
        os.kill(one.pid, signal.SIGCONT)
        one.communicate(b"")
    assert one.returncode == 0


def test_a_rank_that_does_not_listen_is_not_asked() -> None:
    from stoker.fleet.rank_process import RankProcess

    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as one:
        assert not RankProcess(one).ask_for_stack()
        one.communicate(b"")
    assert one.returncode == 0
