"""When a request is sent again, and when a second one is sent beside it: decided without any server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.store.errors import StoreUnreachable
from stoker.store.hedge import HedgePolicy, RecentLatencies, first_good
from stoker.store.resilient_settings import ResilienceSettings, split_url
from stoker.store.retry import Budget, RetryPolicy, pause_s

POLICY = RetryPolicy(first_pause_s=0.25, longest_pause_s=8.0)


class _Highest:
    def uniform(self, a: float, b: float) -> float:
        return b


def test_pauses_double_up_to_a_bound_and_any_of_them_may_be_nothing() -> None:
    bounds = [pause_s(POLICY, tries, _Highest()) for tries in range(1, 9)]
    assert bounds == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert pause_s(POLICY, 5000, _Highest()) == 8.0
    source = random.Random(3)
    drawn = [pause_s(POLICY, 3, source) for _ in range(2000)]
    assert 0.0 <= min(drawn) < 0.05 and 0.95 < max(drawn) <= 1.0
    assert 0.45 < sum(drawn) / len(drawn) < 0.55, "uniform from nothing on, not around the bound"


@given(st.lists(st.booleans(), max_size=300), st.integers(0, 12))
def test_extra_requests_are_at_most_a_share_of_the_requests_and_a_burst(
    calls: list[bool], burst: int
) -> None:
    budget, extra = Budget(0.2, burst), 0
    for sent, wanted in enumerate(calls, 1):
        budget.earn()
        while wanted and budget.spend():
            extra += 1
        assert extra <= 0.2 * sent + burst + 1e-9


def test_a_budget_is_not_saved_up_beyond_its_burst() -> None:
    budget = Budget(0.2, 3)
    budget.earn(1000)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    budget.earn(10)
    assert not budget.spend(3) and budget.spend(2), "all or none"


def test_a_second_request_waits_for_the_slowest_twentieth_of_its_own_kind() -> None:
    policy = HedgePolicy(least_s=0.02, most_s=2.0, needed=20, remembered=100)
    recent = RecentLatencies(policy)
    assert recent.patience_s(100) == 2.0, "unknown: as late as may be"
    for hundredth in range(100):
        recent.add(100, hundredth / 100)
        recent.add(5 << 20, 50.0)
    assert recent.patience_s(100) == recent.patience_s(1 << 16) == 0.95
    assert recent.patience_s(4 << 20) == 2.0, "long ranges are timed apart, and the wait is bounded"
    for _ in range(100):
        recent.add(100, 0.001)
    assert recent.patience_s(100) == 0.02, "only recent ones count, and it is bounded below"
    assert recent.patience_s(1 << 20) == 2.0


class _Race:
    """Requests that end when a test says so."""

    def __init__(self) -> None:
        self.started: list[asyncio.Future[str]] = []

    def send(self) -> Coroutine[Any, Any, str]:
        mine: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.started.append(mine)

        async def wait() -> str:
            return await mine

        return wait()


def _run(play: Callable[[_Race], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(play(_Race()))


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("second", [True, False])
def test_the_first_good_answer_wins_and_the_other_request_is_cancelled(second: bool) -> None:
    async def play(race: _Race) -> None:
        result = asyncio.ensure_future(first_good(race.send, 0.0, lambda: True))
        await _until(lambda: len(race.started) == 2)
        race.started[second].set_result("good")
        assert await result == ("good", second)
        assert race.started[not second].cancelled()

    _run(play)


def test_a_failure_waits_for_the_request_that_may_still_succeed() -> None:
    async def play(race: _Race) -> None:
        result = asyncio.ensure_future(first_good(race.send, 0.0, lambda: True))
        await _until(lambda: len(race.started) == 2)
        race.started[0].set_exception(StoreUnreachable("first"))
        await asyncio.sleep(0)
        race.started[1].set_result("good")
        assert await result == ("good", True)
        result = asyncio.ensure_future(first_good(race.send, 0.0, lambda: True))
        await _until(lambda: len(race.started) == 4)
        race.started[3].set_exception(StoreUnreachable("second"))
        race.started[2].set_exception(StoreUnreachable("first"))
        with pytest.raises(StoreUnreachable, match="first"):
            await result

    _run(play)


def test_no_second_request_without_budget_or_once_the_first_has_ended() -> None:
    async def play(race: _Race) -> None:
        result = asyncio.ensure_future(first_good(race.send, 0.0, lambda: False))
        await _until(lambda: len(race.started) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        race.started[0].set_result("late")
        assert await result == ("late", False) and len(race.started) == 1
        asked: list[bool] = []
        result = asyncio.ensure_future(first_good(race.send, 1e6, lambda: asked.append(True) is None))
        await _until(lambda: len(race.started) == 2)
        race.started[1].set_result("soon")
        assert await result == ("soon", False) and asked == []

    _run(play)


def test_a_caller_that_goes_away_takes_its_requests_with_it() -> None:
    async def play(race: _Race) -> None:
        result = asyncio.ensure_future(first_good(race.send, 0.0, lambda: True))
        await _until(lambda: len(race.started) == 2)
        result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await result
        assert all(request.cancelled() for request in race.started)

    _run(play)


def test_settings_are_read_from_the_url_and_not_passed_on() -> None:
    url, place, settings = split_url(
        "s3://bucket/team/a?attempts=3&deadline_s=9.5&answer_s=4&least_bytes_per_s=1000&part_bytes=65536"
        "&parts_at_once=2&hedge=off"
    )
    assert (url, place) == ("s3://bucket/team/a", "s3://bucket/team/a")
    default = ResilienceSettings()
    assert settings == ResilienceSettings(
        retry=replace(default.retry, attempts=3, deadline_s=9.5),
        hedge=replace(default.hedge, burst=0),
        limits=replace(default.limits, answer_s=4.0, least_bytes_per_s=1000),
        part_bytes=65536,
        parts_at_once=2,
    )
    assert split_url("gs://bucket?hedge=on") == ("gs://bucket", "gs://bucket", default)
    signed = "https://user:word@account.blob.core.windows.net/box?sig=abc"
    assert split_url(signed) == (signed, "https://account.blob.core.windows.net/box", default)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("atempts=3", "Did you mean attempts"),
        ("sig=SECRET", "settings are attempts, deadline_s"),
        ("hedge=perhaps", "hedge is on or off"),
        ("attempts=0", "from 1 to 100"),
        ("attempts=many", "from 1 to 100"),
        ("deadline_s=nan", "from 0 to 86400"),
        ("deadline_s=", "from 0 to 86400"),
    ],
)
def test_settings_that_make_no_sense_are_named(query: str, said: str) -> None:
    with pytest.raises(StoreUnreachable, match=said) as caught:
        split_url(f"s3://user:password@bucket?{query}")
    assert "password" not in caught.value.message and "SECRET" not in caught.value.message
