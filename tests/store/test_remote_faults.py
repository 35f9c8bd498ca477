"""A store that answers late, badly or not at all: tried again within bounds, hedged, named when given up."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stoker.core.clock import ManualClock
from stoker.store.counts import StoreCounts
from stoker.store.errors import (
    AccessRefused,
    ObjectExists,
    ObjectMissing,
    OutOfRange,
    StoreFailing,
    StoreUnreachable,
)
from stoker.store.hedge import HedgePolicy
from stoker.store.objects import ObjectStore
from stoker.store.remote import RemoteStore, RequestLimits
from stoker.store.resilient import ResilientStore
from stoker.store.resilient_settings import ResilienceSettings
from stoker.store.retry_rules import first_line
from support.slow_store import Fault, SlowStore, pointed_at

NO_HEDGES = ResilienceSettings(hedge=HedgePolicy(burst=0))
KEY = "datasets/own/00000000.stk"


@pytest.fixture
def server() -> Iterator[SlowStore]:
    with SlowStore() as running, pointed_at(running):
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class _Open:
    """Opens a store over the server with chosen settings and a clock that does not wait."""

    def __init__(self, server: SlowStore, clock: ManualClock) -> None:
        self._server, self._clock = server, clock

    def __call__(self, settings: ResilienceSettings = NO_HEDGES) -> ObjectStore:
        remote = RemoteStore.connect(self._server.url, self._server.url, settings.limits)
        return ObjectStore(ResilientStore(remote, settings, clock=self._clock, source=random.Random(1)))


@pytest.fixture
def opened(server: SlowStore, clock: ManualClock) -> _Open:
    return _Open(server, clock)


def _counts(store: ObjectStore) -> StoreCounts:
    found = store.counts()
    assert found is not None
    return found


PASSING = [Fault.UNAVAILABLE, Fault.INTERNAL, Fault.RESET, Fault.LOST]


@pytest.mark.parametrize("fault", [*PASSING, Fault.SHORT, Fault.CUT])
def test_a_range_is_asked_for_again_until_it_is_whole(
    server: SlowStore, opened: _Open, clock: ManualClock, fault: Fault
) -> None:
    store, data = opened(), bytes(range(256)) * 4
    server.objects[KEY] = data
    server.plan(fault, method="GET", times=3)
    assert store.get_range(KEY, 100, 500) == data[100:600]
    assert [one.fault for one in server.requests("GET")] == [fault] * 3 + [None]
    counts = _counts(store)
    assert (counts.retries, counts.given_up, counts.bytes_read) == (3, 0, 500)
    assert counts.requests == server.count()
    assert 0 < clock.monotonic_s() <= 0.25 + 0.5 + 1.0, "the pauses are those of the policy"


@pytest.mark.parametrize("fault", PASSING)
def test_every_kind_of_request_is_repeated(server: SlowStore, opened: _Open, fault: Fault) -> None:
    store = opened()
    server.plan(fault, method="PUT")
    store.create(KEY, b"sealed")
    for method in ("HEAD", "GET", "LIST", "DELETE"):
        server.plan(fault, method=method)
    assert store.get(KEY) == b"sealed"
    assert store.get_ranges(KEY, [(0, 1), (4, 2)]) == [b"s", b"ed"]
    assert list(store.list("datasets")) == [KEY]
    store.delete(KEY)
    assert server.objects == {}
    assert _counts(store).retries == 5 and _counts(store).requests == server.count()


def test_a_create_whose_answer_was_lost_knows_its_own_object(server: SlowStore, opened: _Open) -> None:
    store = opened()
    server.plan(Fault.LOST, method="PUT", times=2)
    store.create(KEY, b"sealed with its own salt")
    assert [one.fault for one in server.requests("PUT")] == [Fault.LOST, Fault.LOST, None]
    assert server.objects[KEY] == b"sealed with its own salt"
    assert (_counts(store).found_own, _counts(store).bytes_written) == (1, 24)
    store.create("empty", b"")
    server.plan(Fault.LOST, method="PUT")
    store.create("empty/too", b"")
    assert _counts(store).found_own == 2


@pytest.mark.parametrize("theirs", [b"of another writer", b"short", b""])
def test_a_create_that_was_repeated_does_not_claim_what_another_wrote(
    server: SlowStore, opened: _Open, theirs: bytes
) -> None:
    store = opened()
    server.objects[KEY] = theirs
    for fault in (Fault.UNAVAILABLE, Fault.LOST):
        server.plan(fault, method="PUT")
        with pytest.raises(ObjectExists, match="00000000"):
            store.create(KEY, b"of this writer!!!")
    assert server.objects == {KEY: theirs} and _counts(store).found_own == 0


def test_a_create_that_was_answered_at_once_never_claims_an_object(server: SlowStore, opened: _Open) -> None:
    """Equal bytes are not enough: whoever was told No at the first try did not write them."""
    store = opened()
    server.objects[KEY] = b"same"
    with pytest.raises(ObjectExists):
        store.create(KEY, b"same")
    assert server.count("GET") == server.count("HEAD") == 0


def test_what_will_not_change_is_asked_once(server: SlowStore, opened: _Open) -> None:
    store = opened()
    server.objects[KEY] = b"0123456789"
    server.plan(Fault.FORBIDDEN, times=100)
    for ask in (
        lambda: store.get_range(KEY, 0, 1),
        lambda: store.size(KEY),
        lambda: store.create("x", b""),
        lambda: store.delete(KEY),
        lambda: list(store.list()),
    ):
        with pytest.raises(AccessRefused, match="403") as caught:
            ask()
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    server.no_more_faults()
    with pytest.raises(ObjectMissing):
        store.get_range("no/such", 0, 1)
    with pytest.raises(OutOfRange, match="has 10 bytes"):
        store.get_range(KEY, 8, 3)
    with pytest.raises(OutOfRange, match="has 10 bytes"):
        store.get_range(KEY, 10, 3)
    assert _counts(store).retries == 0 and server.count("GET", "no/such") == 1


def test_a_request_that_the_store_calls_wrong_is_not_repeated(server: SlowStore, opened: _Open) -> None:
    store = opened()
    server.plan(Fault.BAD_REQUEST, times=100)
    with pytest.raises(StoreUnreachable, match="400") as caught:
        store.get_range(KEY, 0, 5)
    assert type(caught.value) is StoreUnreachable and server.count() == 1


def test_a_conflict_of_two_creates_is_tried_again_and_then_decided(server: SlowStore, opened: _Open) -> None:
    """S3 says 409 when neither of two writers is known to have won; only 412 says that the name is taken."""
    store = opened()
    server.plan(Fault.CONFLICT, method="PUT", times=2)
    store.create(KEY, b"first")
    server.plan(Fault.CONFLICT, method="PUT")
    with pytest.raises(ObjectExists):
        store.create(KEY, b"other")
    assert server.objects == {KEY: b"first"} and _counts(store).retries == 3


def test_after_all_tries_the_failure_is_named(server: SlowStore, opened: _Open, clock: ManualClock) -> None:
    store = opened()
    server.objects[KEY] = b"0123456789"
    server.plan(Fault.UNAVAILABLE, times=100)
    with pytest.raises(StoreFailing, match=r"00000000\.stk in s3://slow.*503.*Given up after 7 tries\."):
        store.get_range(KEY, 0, 10)
    assert server.count() == 7
    assert (_counts(store).given_up, _counts(store).short_of_budget) == (1, 0)
    assert clock.monotonic_s() <= 0.25 + 0.5 + 1 + 2 + 4 + 8


def test_no_try_is_begun_after_the_deadline(server: SlowStore, opened: _Open, clock: ManualClock) -> None:
    settings = replace(
        NO_HEDGES, retry=replace(NO_HEDGES.retry, attempts=100, deadline_s=30, budget_burst=99)
    )
    server.plan(Fault.RESET, times=1000)
    with pytest.raises(StoreFailing, match="they may take 30 s"):
        opened(settings).size(KEY)
    assert clock.monotonic_s() <= 30 and 5 < server.count() < 99


def test_a_store_that_fails_is_not_stormed(server: SlowStore, opened: _Open) -> None:
    """One request in five may be a retry, after the first ten: so 130 requests here, not 700."""
    store = opened()
    server.plan(Fault.UNAVAILABLE, times=10_000)
    for _ in range(100):
        with pytest.raises(StoreFailing):
            store.size(KEY)
    counts = _counts(store)
    assert server.count() == counts.requests == 100 + counts.retries
    assert 10 <= counts.retries <= 10 + 0.2 * 100
    assert counts.short_of_budget > 90 and counts.given_up == 100
    with pytest.raises(StoreFailing, match="too many requests to this store are failing"):
        store.size(KEY)
    server.no_more_faults()
    server.objects[KEY] = b"back"
    assert [store.get(KEY) for _ in range(100)] == [b"back"] * 100
    server.plan(Fault.UNAVAILABLE, times=3)
    assert store.get(KEY) == b"back", "good answers have earned retries again"


def test_a_list_that_breaks_off_goes_on_behind_its_last_key(server: SlowStore, opened: _Open) -> None:
    store = opened()
    keys = [f"many/{number:05d}" for number in range(2500)]
    server.objects.update(dict.fromkeys(keys, b"x"))
    server.plan(Fault.RESET, method="LIST", skip=1, times=2)
    assert list(store.list("many")) == keys
    assert server.count("LIST") == 5
    server.plan(Fault.UNAVAILABLE, method="DELETE", skip=1, times=1)
    assert store.delete_prefix("many") == 2500
    assert server.objects == {}


def test_a_store_under_a_prefix_lists_its_own_in_pages(server: SlowStore, opened: _Open) -> None:
    server.objects.update({f"{team}/{number:05d}": b"x" for team in "abc" for number in range(1500)})
    store = ObjectStore.open(f"{server.url}/b")
    assert list(store.list()) == [f"{number:05d}" for number in range(1500)]
    assert store.get("00001") == b"x"
    with pytest.raises(ObjectMissing):
        store.get("b/00001")


def test_a_store_that_never_answers_is_given_up_and_named(server: SlowStore, opened: _Open) -> None:
    limits, retry = RequestLimits(answer_s=0.3), replace(NO_HEDGES.retry, attempts=2)
    store = opened(replace(NO_HEDGES, limits=limits, retry=retry))
    server.plan(Fault.HANG, times=100)
    with pytest.raises(StoreFailing, match=r"no answer in 0\.3 s\. Given up after 2 tries"):
        store.size(KEY)
    assert server.count() == 2


def test_a_request_that_hangs_is_sent_again(server: SlowStore, opened: _Open) -> None:
    store = opened(replace(NO_HEDGES, limits=RequestLimits(answer_s=1)))
    server.objects[KEY] = b"sealed"
    server.plan(Fault.HANG, method="GET")
    assert store.get_range(KEY, 0, 6) == b"sealed"
    server.plan(Fault.HANG, method="PUT")
    store.create("x", b"new")
    assert server.objects["x"] == b"new" and _counts(store).retries >= 2


def test_a_body_that_trickles_is_given_up_long_before_its_end(server: SlowStore, opened: _Open) -> None:
    """1 MiB at 10 kB/s would take 105 s; each stretch of 64 KiB has to come within a second here."""
    limits = RequestLimits(answer_s=60, least_bytes_per_s=1 << 16, stretch_bytes=1 << 16)
    store, data = opened(replace(NO_HEDGES, limits=limits)), bytes(1 << 20)
    server.objects[KEY] = data
    server.plan(Fault.TRICKLE, method="GET")
    assert store.get_range(KEY, 0, len(data)) == data
    assert server.requests("GET")[0].fault is Fault.TRICKLE
    assert _counts(store).retries >= 1
    server.plan(Fault.TRICKLE, method="GET", times=100)
    with pytest.raises(StoreFailing, match="less than 65536 bytes a second"):
        opened(replace(NO_HEDGES, limits=limits, retry=replace(NO_HEDGES.retry, attempts=1))).get_range(
            KEY, 0, len(data)
        )


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.TRICKLE])
def test_a_second_request_answers_for_one_that_is_late(
    server: SlowStore, opened: _Open, fault: Fault
) -> None:
    store = opened(ResilienceSettings(hedge=HedgePolicy(most_s=0.05, needed=1000)))
    server.objects[KEY] = bytes(200_000)
    server.plan(fault, method="GET")
    assert store.get_range(KEY, 0, 200_000) == bytes(200_000)
    counts = _counts(store)
    assert (counts.hedges, counts.hedges_won, counts.retries) == (1, 1, 0)
    assert counts.requests == server.count() == 2


def test_hedges_stay_within_their_budget(server: SlowStore, opened: _Open) -> None:
    """All answers are late here, so every range would like a second request."""
    store = opened(ResilienceSettings(hedge=HedgePolicy(least_s=0.0, most_s=0.0, share=0.05, burst=2)))
    server.objects[KEY] = bytes(1000)
    server.latency_s = 0.005
    for start in range(100):
        store.get_range(KEY, start, 10)
    counts = _counts(store)
    assert 2 <= counts.hedges <= 2 + 0.05 * 100
    assert counts.requests == 100 + counts.hedges and counts.retries == 0


def test_long_ranges_are_read_in_parts_and_only_the_bad_ones_again(server: SlowStore, opened: _Open) -> None:
    store = opened(replace(NO_HEDGES, part_bytes=1 << 16, parts_at_once=3))
    data = random.Random(2).randbytes((5 << 16) + 123)
    server.objects[KEY] = data
    assert store.get_range(KEY, 7, (1 << 17) - 1) == data[7 : (1 << 17) + 6]
    assert server.count("GET") == 1, "less than two parts: as one"
    server.forget()
    server.plan(Fault.SHORT, method="GET", times=2)
    assert store.get_range(KEY, 0, len(data)) == data
    asked = [one.range for one in server.requests("GET")]
    assert len(asked) == 6 + 2 and len(set(asked)) == 6
    assert all(span is not None and span[1] - span[0] <= 1 << 16 for span in asked)
    assert _counts(store).retries == 2


def test_ranges_near_each_other_are_one_request(server: SlowStore, opened: _Open) -> None:
    store = opened()
    data = random.Random(2).randbytes(3 << 20)
    server.objects[KEY] = data
    ranges = [(2_500_000, 100), (10, 20), (0, 15), (5000, 0), (12, 4), (1_040_000, 1), (3 << 20, 0)]
    found = store.get_ranges(KEY, ranges)
    assert [bytes(one) for one in found] == [data[start : start + length] for start, length in ranges]
    assert sorted(one.range for one in server.requests("GET") if one.range) == [
        (0, 1_040_001),
        (2_500_000, 2_500_100),
    ]
    assert store.get_ranges(KEY, []) == []


def test_a_store_that_nobody_serves_is_named(server: SlowStore, opened: _Open) -> None:
    store = opened()
    server.__exit__()
    with pytest.raises(StoreFailing, match="s3://slow"):
        store.size(KEY)


def test_messages_hold_no_signature_of_a_url() -> None:
    error = RuntimeError("GET https://u:pw@host/box/x?sv=1&sig=SECRET in 3 ms\nmore SECRET")
    assert first_line(error) == "GET https://host/box/x in 3 ms"


def test_settings_of_the_url_reach_the_store(server: SlowStore) -> None:
    store = ObjectStore.open(f"{server.url}/team?attempts=1")
    assert store.place == "s3://slow/team"
    store.create("x", b"1")
    assert list(server.objects) == ["team/x"] and list(store.list()) == ["x"]
    server.plan(Fault.UNAVAILABLE, times=100)
    server.forget()
    with pytest.raises(StoreFailing, match="after 1 tries"):
        store.size("x")
    assert server.count() == 1


def test_a_process_ends_while_requests_hang(server: SlowStore) -> None:
    """Nothing of the store's thread keeps an interpreter from ending, or makes it crash."""
    server.plan(Fault.HANG, method="GET", key="hangs", times=100)
    script = (
        "import sys, threading\n"
        "from stoker.store.objects import ObjectStore\n"
        "store = ObjectStore.open(sys.argv[1] + '?attempts=1')\n"
        "threading.Thread(target=store.get_range, args=('hangs', 0, 5), daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, server.url], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process.stdin:
        while not server.count("GET", "hangs"):
            assert process.poll() is None
            time.sleep(0.01)
    assert process.wait(timeout=120) == 0
