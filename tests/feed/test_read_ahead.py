"""Reading ahead: in order, with errors in their place, and nothing left in memory when dropped."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from stoker.core.errors import StokerError
from stoker.feed.read_ahead import ReadAhead


class ReadFailed(StokerError):
    """Stands for what opening a chunk raises."""

    exit_code = 198


class StepReader:
    """Batches full of their step's number plus one; keeps them, to see whether they were wiped."""

    def __init__(self, failing: int = -1) -> None:
        self.failing = failing
        self.batches: dict[int, np.ndarray] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        self.wipes = 0

    def read(self, step: int) -> np.ndarray:
        self.go_on.wait()
        if step == self.failing:
            raise ReadFailed(f"step {step}")
        return self.batches.setdefault(step, np.full((2, 3), step + 1))

    def wipe(self) -> None:
        self.wipes += 1

    def wipe_batch(self, batch: np.ndarray) -> None:
        batch.fill(0)


def test_steps_come_in_order_from_any_first_step() -> None:
    ahead = ReadAhead(StepReader(), 3)
    assert [int(ahead.take(step)[0, 0]) for step in range(5, 25)] == list(range(6, 26))
    ahead.drop()


def test_batches_that_nobody_took_are_wiped_and_those_taken_are_not() -> None:
    reader = StepReader()
    ahead = ReadAhead(reader, 4)
    for step in range(3):
        ahead.take(step)
    ahead.drop()
    assert [batch.any() for step, batch in sorted(reader.batches.items())][:3] == [True, True, True]
    assert not any(batch.any() for step, batch in reader.batches.items() if step > 2)
    assert reader.wipes == 1


def test_a_batch_that_is_being_read_while_dropped_is_wiped_too() -> None:
    reader = StepReader()
    ahead = ReadAhead(reader, 1)
    ahead.take(0)
    ahead.take(1)
    reader.go_on.clear()
    dropping = threading.Thread(target=ahead.drop)
    dropping.start()
    reader.go_on.set()
    dropping.join()
    assert not any(batch.any() for step, batch in reader.batches.items() if step > 1)
    assert reader.wipes == 1


def test_an_error_is_raised_by_its_own_step_and_not_before() -> None:
    ahead = ReadAhead(StepReader(failing=2), 5)
    assert [int(ahead.take(step)[0, 0]) for step in range(2)] == [1, 2]
    with pytest.raises(ReadFailed, match="step 2"):
        ahead.take(2)
    ahead.drop()


def test_after_a_drop_reading_begins_again_at_any_step() -> None:
    reader = StepReader()
    ahead = ReadAhead(reader, 2)
    ahead.take(9)
    ahead.drop()
    reader.batches.clear()
    assert int(ahead.take(4)[0, 0]) == 5
    ahead.drop()
