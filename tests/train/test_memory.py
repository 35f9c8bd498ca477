"""A rank that runs out of memory says what held it, and the knob that it names helps.

The limit is the kernel's, on this process's address space, so the errors are those of torch's own allocator.
"""

from __future__ import annotations

import re
import resource
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed

from stoker.spec.memory_knobs import step_knobs
from stoker.spec.run import LaunchSpec, RunSpec
from stoker.train import attempt
from stoker.train.memory import Held, Memory, OutOfMemory, readable
from stoker.train.models import materialise
from stoker.train.optimizer import build_optimizer
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallelize import spread
from stoker.train.step import train_step
from stoker.train.task import Task
from support.layouts import DENSE, TRAIN, VOCABULARY, built
from support.ranks import RankFailed, run_ranks
from support.run_places import RUN_SPEC, RunPlace

HOST = torch.device("cpu")
MIB = 1 << 20
ROWS, LENGTH = 64, 256
RUN = RunSpec(
    dataset="none", model=DENSE, train=replace(TRAIN, global_batch=ROWS), launch=LaunchSpec(ranks=1)
)


def leave_no_more_than(free_bytes: int) -> None:
    """From here on this process gets no more address space than so much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + free_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def train_within(free_bytes: int | None, run: RunSpec) -> tuple[str, str, Held]:
    """The message and hint of a step of 64 rows, empty when it came through; and what was held before it.

    Without a limit there is no such step.
    """
    memory = Memory(run, HOST)
    laid = spread(built(DENSE), Meshes.build(run.layout, "cpu", distributed.get_world_size()), run)
    model = materialise(laid.model, 0, HOST)
    optimizer = build_optimizer(model, run.train)
    memory.holds(model, optimizer)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    train_step(model, optimizer, tokens[:, :9], run.train, 1, spread=laid)  # what is made at first is there
    before = memory.held()
    if free_bytes is None:
        return "", "", before
    leave_no_more_than(free_bytes)
    try:
        with memory.explained():
            train_step(model, optimizer, tokens, run.train, 2, spread=laid)
    except OutOfMemory as error:
        return error.message, error.hint, before
    return "", "", before


def test_a_step_that_does_not_fit_says_what_held_the_memory_and_a_knob_that_helps() -> None:
    for limit in range(256 * MIB, 63 * MIB, -16 * MIB):  # the first that is too little
        message, hint, _ = run_ranks(1, lambda rank, limit=limit: train_within(limit, RUN))[0]
        if message:
            break
    weights = readable(4 * DENSE.parameters(VOCABULARY))
    assert message.startswith("A rank ran out of memory in training: it asked this machine for ")
    assert f"weights {weights}, gradients" not in message, "a step begins by dropping gradients"
    assert f"weights {weights}, optimizer state" in message
    held = re.search(r"activations and buffers ([\d.]+) MiB", message)
    assert held is not None
    assert 64 < float(held[1]) < 512
    knobs = list(step_knobs(RUN))[:3]
    assert hint == f"Set {' or '.join(map(str, knobs))}."
    for knob in (knobs[0], knobs[2]):  # fewer rows at a time, full recompute
        assert run_ranks(1, lambda rank, knob=knob: train_within(limit, knob.spec))[0][:2] == ("", "")


def test_each_rank_counts_its_own_shards() -> None:
    def held(rank: int) -> Held:
        return train_within(None, replace(RUN, launch=LaunchSpec()))[2]

    whole = run_ranks(1, held)[0]
    first, second = run_ranks(2, held)
    assert whole.weights == whole.gradients == 4 * DENSE.parameters(VOCABULARY)
    assert first.weights + second.weights == whole.weights
    assert first.optimizer + second.optimizer == pytest.approx(whole.optimizer, rel=0.01)
    assert whole.weights < whole.optimizer < 3 * whole.weights
    assert whole.program > 50 * MIB


@pytest.mark.fresh_process
def test_a_model_that_does_not_fit_ends_the_attempt_with_this_error(monkeypatch: pytest.MonkeyPatch) -> None:
    task_of = attempt.task_of

    def limited(*given: Any) -> Task:
        leave_no_more_than(16 * MIB)
        return task_of(*given)

    monkeypatch.setattr(attempt, "task_of", limited)
    wide = replace(RUN_SPEC, model=replace(RUN_SPEC.model, width=1024, ffn_width=4096))
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(RankFailed, match="OutOfMemory: A rank ran out of memory before its model was built"),
    ):
        RunPlace.make(Path(folder)).attempt(spec=wide)


def test_an_error_that_is_about_something_else_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), Memory(RUN, HOST).explained():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_what_cuda_says_is_told_in_its_own_units() -> None:
    text = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB"
    with (
        pytest.raises(OutOfMemory, match=r"it asked this machine for 2\.50 GiB more and held the program"),
        Memory(RUN, HOST).explained(),
    ):
        raise torch.OutOfMemoryError(text)
