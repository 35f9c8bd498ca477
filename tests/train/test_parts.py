"""A rank that is slow is found by what ranks tell of themselves: two real ranks, one of which is held up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as distributed

from stoker.core.clock import SystemClock
from stoker.core.events import EventKind, Section, read_events
from stoker.fleet.stragglers import find_stragglers
from stoker.spec.layout import CompileUnit
from stoker.train import run_state
from stoker.train.parallel import recompute
from stoker.train.step import train_step
from stoker.train.watch.parts import counting_waits
from support.ranks import run_ranks
from support.run_places import RUN_SPEC, RunPlace


def held_up(*arguments: Any, loss_of: Any, **named: Any) -> Any:
    """A step whose loss is late on rank 1."""

    def late(model: Any, batch: Any) -> Any:
        if distributed.get_rank() == 1:
            time.sleep(0.25)
        return loss_of(model, batch)

    return train_step(*arguments, loss_of=late, **named)


def test_the_rank_that_holds_the_others_up_is_named_with_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "train_step", held_up)
    RunPlace.make(tmp_path).attempt()
    events = [event for rank in (0, 1) for event in read_events(tmp_path / f"events-1.{rank}").events]
    told = [event for event in events if event.kind is EventKind.RANK_PARTS]
    assert [(event.rank, event.number("first_step"), event.number("step")) for event in told] == [
        (0, 1, RUN_SPEC.train.steps),
        (1, 1, RUN_SPEC.train.steps),
    ]
    found = find_stragglers(events)
    assert found.slowest is not None
    assert (found.slowest.rank, found.slowest.part) == (1, Section.COMPUTE)
    assert told[0].number("waited_s") > told[1].number("waited_s")


def one_waits(rank: int) -> tuple[float, bool]:
    import torch
    from torch._C._distributed_c10d import Work

    plain = Work.wait
    with counting_waits(SystemClock()) as waits:
        if rank == 1:
            time.sleep(0.3)
        distributed.all_reduce(torch.ones(1))
        waited_s = waits.waited_s
    return waited_s, Work.wait is plain


def test_a_wait_is_counted_where_it_is_waited_and_nothing_stays_wrapped() -> None:
    (first_s, first_plain), (second_s, second_plain) = run_ranks(2, one_waits)
    assert first_s > second_s
    assert first_plain
    assert second_plain


def test_what_the_compiler_took_is_told_of_the_step_that_waited_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "BACKEND", "eager")
    spec = replace(RUN_SPEC, layout=replace(RUN_SPEC.layout, compile=CompileUnit.BLOCK))
    steps = [event for event in RunPlace.make(tmp_path).attempt(spec=spec) if event.kind is EventKind.STEP]
    first, last = steps[0], steps[-1]
    assert 0 < float(str(first.fields["compile_s"])) <= first.number("step_s")
    assert "compile_s" not in last.fields
