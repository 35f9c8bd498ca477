"""A short fault campaign on one real run, and what a campaign's judgement rests on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stoker.core.errors import ERROR_CLASSES
from stoker.core.events import EventKind
from stoker.fleet.taxonomy import RETRIED, Component, FailureKind
from stoker.train.ahead import load
from support.chaos.campaign import Fate, Told
from support.chaos.findings import differing_batches, differing_losses
from support.chaos.kinds import AGAIN_CODES, KINDS, PERSON_CODES, Course, drawn
from support.run_events import Story

TESTS = Path(__file__).parents[1]
FAULTS, SEED = 25, 1


def test_a_run_goes_through_a_short_campaign_unharmed(tmp_path: Path) -> None:
    """`make chaos CHAOS_FAULTS=25 CHAOS_SEED=1`."""
    command = [sys.executable, "-m", "support.chaos", "--faults", str(FAULTS), "--seed", str(SEED)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-12_000:]}\n{done.stderr[-4_000:]}"
    assert f"{FAULTS} faults, seed {SEED}: unharmed" in done.stdout


def test_each_kind_comes_as_often_as_any_other_in_an_order_that_the_seed_gives() -> None:
    counts = Counter(kind.name for kind in drawn(200, seed=1))
    assert set(counts) == {kind.name for kind in KINDS}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert drawn(200, seed=1) == drawn(200, seed=1) != drawn(200, seed=2)


def test_errors_that_ranks_are_told_to_raise_do_what_their_kind_says() -> None:
    load()  # what a rank imports
    for code in (*AGAIN_CODES, *PERSON_CODES):
        error = ERROR_CLASSES[code]("It is asked for.", hint="Go on.")
        assert (error.exit_code in RETRIED) is (code in AGAIN_CODES)


PROCESS = (FailureKind.SYSTEM_SOFTWARE, Component.PROCESS)
DATASET = (FailureKind.DATA, Component.DATASET)


@pytest.mark.parametrize(
    ("told", "attributed"),
    [
        ([Told(PROCESS, 1, "")], True),
        ([Told(PROCESS, -1, "")], True),
        ([Told(PROCESS, 0, "")], False),
        ([Told(DATASET, 1, "")], False),
        ([Told(PROCESS, 1, ""), Told(DATASET, 1, "")], False),
    ],
)
def test_a_fault_is_attributed_when_each_of_its_failures_names_it_and_its_rank(
    told: list[Told], attributed: bool
) -> None:
    kind = next(each for each in KINDS if each.course is Course.RESTARTS)
    assert Fate(kind, 1, frozenset({PROCESS}), 1, told).attributed is attributed


def steps(*losses: float) -> Story:
    story = Story().begin(len(losses)).start_attempt(0, ready_after_s=1.0)
    for step, loss in enumerate(losses, 1):
        fields = {"step": step, "loss": loss, "tokens": 1, "step_s": 1.0, "data_wait_s": 0.0}
        story.tell(EventKind.STEP, rank=0, after_s=1.0, **fields)
    return story


def test_another_loss_and_a_missing_step_are_found() -> None:
    calm = steps(3.0, 2.0, 1.0).events
    assert not list(differing_losses(calm, steps(3.0, 2.0, 1.0).events, 3))
    assert list(differing_losses(calm, steps(3.0, 2.0, 1.0000001).events, 3))
    assert list(differing_losses(calm, steps(3.0, 2.0).events, 3))


def test_a_batch_that_is_another_missing_or_one_too_many_is_found() -> None:
    calm = {(step, rank): f"{step}{rank}" for step in (1, 2) for rank in (0, 1)}
    assert not list(differing_batches(calm, dict(calm), 2))
    assert list(differing_batches(calm, {**calm, (2, 1): "x"}, 2))
    assert list(differing_batches(calm, {place: calm[place] for place in list(calm)[:3]}, 2))
    assert list(differing_batches(calm, {**calm, (3, 0): "30"}, 2))
