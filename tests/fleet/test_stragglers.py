"""The rank that others wait for is named with its share, from parts told by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.events import Event, EventKind, Section
from stoker.fleet.stragglers import NOTABLE, find_stragglers
from support.run_events import an_event

K = EventKind


def parts(
    rank: int, step: int, *, data: float = 1.0, compute: float = 10.0, optimizer: float = 1.0, **more: object
) -> Event:
    """Sixteen steps of a rank; ranks wait until the slowest of 20 s is done."""
    own_s = data + compute + optimizer
    fields = {
        "first_step": step - 15,
        "step": step,
        "data_s": data,
        "compute_s": compute,
        "optimizer_s": optimizer,
        "waited_s": 20.0 - own_s,
    }
    return an_event(
        K.RANK_PARTS,
        float(step),
        rank=rank,
        **{"host_waits": True, **fields, **more},  # type: ignore[arg-type]
    )


def attempt(world: int) -> Event:
    return an_event(K.ATTEMPT_STARTED, 0.0, world_size=world)


def test_the_slow_rank_is_named_with_its_part_and_its_share_of_the_time() -> None:
    events = [attempt(4), *(parts(rank, 16, compute=14.0 if rank == 2 else 10.0) for rank in range(4))]
    events += [parts(rank, 32, data=2.0 if rank == 1 else 1.0) for rank in range(4)]
    found = find_stragglers(events)
    assert (found.steps, found.steps_s, found.lost_s) == (32, 40.0, 5.0)
    slow, other = found.ranks
    assert (slow.rank, slow.part, slow.lost_s, slow.share_of_lost) == (2, Section.COMPUTE, 4.0, 0.8)
    assert slow.share_of_step_time == 0.1
    assert (other.rank, other.part) == (1, Section.DATA)
    assert found.slowest == slow
    assert "rank 2 on local is slower than the others, in compute: it cost 4.000 s, 10.0%" in found.sentence()


def test_small_differences_name_nobody() -> None:
    events = [attempt(2), parts(0, 16), parts(1, 16, compute=10.0 + 20.0 * NOTABLE * 0.9)]
    found = find_stragglers(events)
    assert found.slowest is None
    assert "no rank is slower" in found.sentence()


def test_windows_of_which_a_rank_told_nothing_or_something_else_are_left_out() -> None:
    events = [attempt(3), parts(0, 16), parts(1, 16, compute=15.0)]
    assert find_stragglers(events).steps == 0
    events.append(parts(2, 16, first_step=9))
    assert find_stragglers(events).steps == 0
    assert "every rank" in find_stragglers(events).sentence()
    assert find_stragglers([attempt(1), parts(0, 16)]).steps == 0


def test_where_hosts_do_not_wait_compute_is_not_compared() -> None:
    told = [
        parts(0, 16, compute=10.0, host_waits=False),
        parts(1, 16, data=4.0, compute=2.0, host_waits=False),
    ]
    found = find_stragglers([attempt(2), *told])
    assert found.compared == (Section.DATA, Section.OPTIMIZER)
    assert found.slowest is not None
    assert (found.slowest.rank, found.slowest.part) == (1, Section.DATA)


_S = st.one_of(st.floats(0.0, 50.0), st.sampled_from([math.nan, math.inf, -1.0]))


@settings(deadline=None)
@given(st.lists(st.tuples(_S, _S, _S), min_size=2, max_size=6), st.integers(0, 3))
def test_what_is_lost_is_never_more_than_the_time_and_its_shares_add_up(
    each: list[tuple[float, float, float]], missing: int
) -> None:
    events = [attempt(len(each))]
    for rank, (data, compute, optimizer) in enumerate(each):
        events.append(parts(rank, 16, data=data, compute=compute, optimizer=optimizer))
    found = find_stragglers(events if missing else events[:-1])
    if not missing:
        assert found.steps == 0
        return
    assert 0.0 <= found.lost_s <= found.steps_s + 1e-9
    assert math.isclose(sum(rank.lost_s for rank in found.ranks), found.lost_s, abs_tol=1e-9)
    if found.lost_s > 0:
        assert sum(rank.share_of_lost for rank in found.ranks) == pytest.approx(1.0)
