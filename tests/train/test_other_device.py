"""The engine on a device that is not the host: each tensor where it belongs, and the host's losses.

The device is made in Python (support/other_device.py). What CUDA's kernels and NCCL do is not tried here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stoker.core.events import Event, EventKind
from stoker.spec.job import CommitRef
from stoker.spec.layout import ContextParallelism, LayoutSpec
from stoker.spec.run import Precision
from stoker.train.checkpoint_pieces import Piece
from stoker.train.checkpoint_staging import Staged
from stoker.train.rank_place import seed_step
from support import other_device
from support.layouts import CLIPS, HIDDEN, MIXTURE, PICTURES, Case, train_over
from support.ranks import RankFailed, run_ranks
from support.run_places import RUN_SPEC, RunPlace

pytestmark = pytest.mark.fresh_process

SPEC = replace(RUN_SPEC, train=replace(RUN_SPEC.train, precision=Precision.FP32))
STEPS = 3


def of_kind(events: list[Event], kind: EventKind) -> list[Event]:
    return [event for event in events if event.kind is kind]


def losses(events: list[Event], after: int = 0) -> dict[int, float]:
    found = {int(each.number("step")): each.number("loss") for each in of_kind(events, EventKind.STEP)}
    return {step: loss for step, loss in found.items() if step > after}


def first_commit(events: list[Event]) -> CommitRef:
    told = of_kind(events, EventKind.CHECKPOINT_COMMITTED)[0]
    return CommitRef(int(told.number("sequence")), int(told.number("step")), told.text("digest"))


@pytest.fixture(scope="module")
def on_host() -> Iterator[list[Event]]:
    with tempfile.TemporaryDirectory() as folder:
        yield RunPlace.make(Path(folder)).attempt(spec=SPEC)


def test_a_whole_attempt_on_a_device_is_the_hosts_and_goes_on_there(
    on_host: list[Event], tmp_path: Path
) -> None:
    place = RunPlace.make(tmp_path)
    spec = replace(SPEC, train=replace(SPEC.train, keep_checkpoints=4))
    events = place.attempt(spec=spec, take_device=other_device.install)
    (ready,) = of_kind(events, EventKind.RANK_READY)
    assert ready.text("device") == "other:0"
    assert losses(events) == pytest.approx(losses(on_host), rel=1e-4)
    for kind, name in ((EventKind.EVALUATION, "bits_per_byte"), (EventKind.EXPOSURE, "bits")):
        found, wanted = ([each.number(name) for each in of_kind(told, kind)] for told in (events, on_host))
        assert found == pytest.approx(wanted, rel=1e-4)
    assert of_kind(events, EventKind.SAMPLE)[0].text("text").startswith(SPEC.evaluate.sample_prompt)
    commit = first_commit(events)
    resumed = place.attempt(commit, spec=spec)
    assert losses(resumed) == pytest.approx(losses(events, commit.step), rel=1e-4)


def test_a_checkpoint_in_the_background_is_of_its_moment_though_its_copies_come_late(
    on_host: list[Event], tmp_path: Path
) -> None:
    """Copies on the device's stream beside are made when somebody waits: the update has to wait for them."""
    whole = Staged.whole

    def late(staged: Staged) -> Sequence[Piece]:
        time.sleep(0.5)  # the next step is taken meanwhile
        return whole(staged)

    def install() -> torch.device:
        Staged.whole = late  # type: ignore[method-assign]
        return other_device.install()

    place = RunPlace.make(tmp_path)
    spec = replace(SPEC, train=replace(SPEC.train, keep_checkpoints=4, checkpoint_async=True))
    commit = first_commit(place.attempt(spec=spec, take_device=install))
    resumed = place.attempt(commit, spec=spec, take_device=other_device.install)
    assert losses(resumed) == pytest.approx(losses(on_host, commit.step), rel=1e-4)


@pytest.mark.parametrize(
    "case",
    [
        Case(LayoutSpec(micro_batches=2, loss_chunks=2)),
        Case(LayoutSpec(dp_replicate=2, dp_shard=1)),
        Case(LayoutSpec(dp_shard=1, tp=2)),
        Case(LayoutSpec(dp_shard=1, cp=2)),
        Case(LayoutSpec(dp_shard=1, cp=2, context=ContextParallelism.ULYSSES)),
        Case(LayoutSpec(dp_shard=1, pp=2, micro_batches=2)),
        Case(LayoutSpec(ep=2), model=MIXTURE),
        Case(LayoutSpec(cpu_offload=True), model=MIXTURE),
        Case(LayoutSpec(), model=PICTURES, precision=Precision.BF16),
        Case(LayoutSpec(dp_shard=1, pp=2, micro_batches=2), model=PICTURES),
        Case(LayoutSpec(dp_shard=1, tp=2), model=HIDDEN),
        Case(LayoutSpec(), model=CLIPS),
    ],
    ids=lambda case: f"{case.layout} {type(case.model).__name__}"[:90],
)
def test_on_every_axis_a_device_has_the_hosts_losses(case: Case) -> None:
    def both(rank: int) -> tuple[list[float], list[float]]:
        found = train_over(case, other_device.install(), STEPS).losses
        return found, train_over(case, steps=STEPS).losses

    tolerance = 1e-4 if case.precision is Precision.FP32 else 1e-2
    for found, wanted in run_ranks(2, both):
        assert found == pytest.approx(wanted, rel=tolerance)


def test_the_device_tells_a_tensor_that_was_left_on_the_host() -> None:
    def mix(rank: int) -> None:
        device = other_device.install()
        torch.ones(2, device=device) + torch.ones(2)

    with pytest.raises(RankFailed, match="LeftOnTheHost"):
        run_ranks(1, mix)


def test_a_steps_random_state_is_set_on_every_device() -> None:
    def seeds(rank: int) -> list[int]:
        module = torch.get_device_module(other_device.install())
        found = []
        for step in (3, 4, 3):
            seed_step(7, step, rank)
            found.append(module.seed)
        return found

    first, second, again = run_ranks(1, seeds)[0]
    assert first == again != second
