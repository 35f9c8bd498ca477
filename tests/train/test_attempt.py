"""A run's attempts on real ranks and a sealed dataset: a resumed run equals the uninterrupted one."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from stoker.core.events import Event, EventKind
from stoker.spec.job import CommitRef
from stoker.spec.run import RunSpec
from stoker.spec.watch import OnBadStep, WatchSpec
from stoker.train.checkpoint_errors import RETRYABLE, BadCommitLog, CheckpointUnfit
from stoker.train.commit_store import read_commit
from stoker.train.rank_place import seed_step
from stoker.train.watch.guard import NonFiniteLoss
from support.ranks import RankFailed, run_ranks
from support.run_places import RUN_SPEC, Killed, RunPlace
from support.small_runs import open_objects, wider


def of_kind(events: list[Event], kind: EventKind) -> list[Event]:
    return [event for event in events if event.kind is kind]


def losses(events: list[Event]) -> dict[int, float]:
    return {int(event.number("step")): event.number("loss") for event in of_kind(events, EventKind.STEP)}


def commits(events: list[Event]) -> list[CommitRef]:
    return [
        CommitRef(int(event.number("sequence")), int(event.number("step")), event.text("digest"))
        for event in of_kind(events, EventKind.CHECKPOINT_COMMITTED)
    ]


@dataclass
class Whole:
    """An uninterrupted run, and what it told."""

    place: RunPlace
    events: list[Event]
    random_states: dict[int, str]


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with tempfile.TemporaryDirectory() as folder:
        place = RunPlace.make(Path(folder))
        yield Whole(place, place.attempt(), place.random_states)


def test_a_run_tells_its_steps_checkpoints_evaluations_and_a_sample(whole: Whole) -> None:
    events = whole.events
    assert sorted(losses(events)) == list(range(1, RUN_SPEC.train.steps + 1))
    assert all(math.isfinite(loss) for loss in losses(events).values())
    assert [commit.step for commit in commits(events)] == [3, 6, 8]
    (ready,) = of_kind(events, EventKind.RANK_READY)
    assert ready.number("resume_step") == 0
    assert ready.number("parameters") > 1000
    names = [event.text("name") for event in of_kind(events, EventKind.EVALUATION)]
    assert names == ["model", "bigram", "zlib-9", "xz"]
    for event in of_kind(events, EventKind.EVALUATION):
        assert event.number("bits_per_byte") > 0
        assert event.number("bytes") == of_kind(events, EventKind.EVALUATION)[0].number("bytes")
    (sample,) = of_kind(events, EventKind.SAMPLE)
    assert sample.text("text").startswith(RUN_SPEC.evaluate.sample_prompt)
    for event in of_kind(events, EventKind.CHECKPOINT_COMMITTED):
        assert event.number("stall_s") > 0
        assert event.number("bytes") > 10_000
    sections = {event.text("section") for event in of_kind(events, EventKind.HEARTBEAT)}
    assert sections == {"start_up", "data", "compute", "optimizer", "checkpoint", "evaluate", "done"}


def test_only_the_last_two_checkpoints_are_left_and_the_last_one_is_of_the_last_step(whole: Whole) -> None:
    with open_objects(whole.place.dataset.store_folder, whole.place.keys) as objects:
        prefixes = set(objects.checkpoint_prefixes())
        last = read_commit(objects, commits(whole.events)[-1])
    assert last.step == RUN_SPEC.train.steps
    assert prefixes == {last.prefix, *(kept.prefix for kept in last.kept)}
    assert len(prefixes) == 2


@pytest.mark.parametrize("world_size", [2, 1])
def test_a_resumed_runs_losses_equal_the_uninterrupted_runs_at_every_step(
    whole: Whole, tmp_path: Path, world_size: int
) -> None:
    place = RunPlace.make(tmp_path)
    straight = losses(whole.events)
    with pytest.raises(RankFailed, match=Killed.__name__):
        place.attempt(die_after=5)
    before = losses(place.told)
    (reference,) = commits(place.told)
    assert (sorted(before), reference.step) == ([1, 2, 3, 4, 5], 3)
    after = losses(place.attempt(reference, world_size=world_size))
    assert sorted(after) == list(range(4, RUN_SPEC.train.steps + 1))
    assert before == {step: straight[step] for step in before}
    expected = {step: straight[step] for step in after}
    assert place.random_states == {step: whole.random_states[step] for step in after}
    assert len(set(whole.random_states.values())) == RUN_SPEC.train.steps
    if world_size == 2:
        assert after == expected
    else:
        # One rank sums what two summed apart: the same batches, and floats in another order.
        assert after == pytest.approx(expected, rel=1e-3)


def test_random_numbers_of_a_step_depend_on_seed_step_and_rank_alone() -> None:
    def draw(rank: int) -> dict[tuple[int, int], float]:
        drawn = {}
        for step in (3, 4, 3):
            seed_step(7, step, rank)
            drawn[step, rank] = torch.rand(1).item()
        return drawn

    first, second = run_ranks(2, draw)
    assert len(set(first.values()) | set(second.values())) == 4
    assert run_ranks(1, draw)[0] == first


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    place = RunPlace.make(tmp_path)
    wild = replace(RUN_SPEC.train, learning_rate=1e30, warmup_steps=1, checkpoint_every_steps=1)
    with pytest.raises(RankFailed, match=r"NonFiniteLoss: Step 2: .* must be finite"):
        place.attempt(spec=replace(RUN_SPEC, train=wild, watch=WatchSpec(on_bad_step=OnBadStep.STOP)))
    assert sorted(losses(place.told)) == [1]
    (reference,) = commits(place.told)
    with open_objects(place.dataset.store_folder, place.keys) as objects:
        assert read_commit(objects, reference).step == 1
        assert len(list(objects.checkpoint_prefixes())) == 1
    assert NonFiniteLoss.exit_code not in RETRYABLE


def test_a_run_resumed_at_its_last_step_only_evaluates(whole: Whole) -> None:
    events = whole.place.attempt(commits(whole.events)[-1])
    assert not losses(events)
    assert not commits(events)
    again = [event.number("bits_per_byte") for event in of_kind(events, EventKind.EVALUATION)]
    first = [event.number("bits_per_byte") for event in of_kind(whole.events, EventKind.EVALUATION)]
    assert again == first
    texts = {event.text("text") for event in of_kind([*events, *whole.events], EventKind.SAMPLE)}
    assert len(texts) == 1
    sections = [event.text("section") for event in of_kind(events, EventKind.HEARTBEAT)]
    assert sections[:3] == ["start_up", "checkpoint", "start_up"], "what loading meets is the checkpoint's"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job_spec: wider(job_spec), CheckpointUnfit.__name__),
        (
            lambda job_spec: replace(job_spec, train=replace(job_spec.train, seed=6)),
            "seed is 5 in the state and 6 here",
        ),
        (
            lambda job_spec: replace(job_spec, model=replace(job_spec.model, rope_base=500.0)),
            CheckpointUnfit.__name__,
        ),
    ],
)
def test_a_checkpoint_of_another_model_or_order_is_refused(
    whole: Whole, change: Callable[[RunSpec], RunSpec], message: str
) -> None:
    with pytest.raises(RankFailed, match=message):
        whole.place.attempt(commits(whole.events)[-1], spec=change(RUN_SPEC))


def test_a_rolled_back_store_is_refused_before_anything_is_written(whole: Whole) -> None:
    reference = replace(commits(whole.events)[-1], digest="ab" * 32)
    store = whole.place.dataset.store_folder
    before = sorted(store.rglob("*"))
    with pytest.raises(RankFailed, match=BadCommitLog.__name__):
        whole.place.attempt(reference)
    assert sorted(store.rglob("*")) == before
