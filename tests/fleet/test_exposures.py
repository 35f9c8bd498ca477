"""What a report says of exposure (attack 047): measured, told, and whether the model may be released."""

from __future__ import annotations

import pytest

from stoker.core.events import EventKind
from stoker.fleet.exposures import exposures_of
from support.run_events import Story

K = EventKind


def told(*figures: tuple[str, float]) -> Story:
    story = Story().begin().start_attempt(0, ready_after_s=2.0).steps(1, 2, step_s=1.0)
    for dataset, bits in figures:
        story.tell(K.EXPOSURE, dataset=dataset, bits=bits, rank_among=1, candidates=512)
    return story


def test_the_newest_figure_of_each_dataset_counts() -> None:
    found = exposures_of(told(("a", 3.0), ("b", 1.0), ("a", 2.0)).events, 20.0)
    assert [(each.dataset, each.bits) for each in found] == [("a", 2.0), ("b", 1.0)]


@pytest.mark.parametrize(("bits", "known"), [(19.9, False), (20.0, False), (20.1, True), (128.0, True)])
def test_atk_047_a_model_above_the_limit_is_not_to_be_released(bits: float, known: bool) -> None:
    (found,) = exposures_of(told(("a", bits)).events, 20.0)
    assert found.known_by_heart is known
    assert ("not to be released" in found.sentence()) is known
