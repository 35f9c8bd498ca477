"""Clearing away: what goes, what stays and why, races with runs that begin, and being killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.atomic import exclusive
from stoker.intake.errors import NotAllowed
from stoker.intake.garbage import Because, GarbageReport
from stoker.intake.life import RunStanding
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.states import KekState
from stoker.ledger.errors import LedgerRefused, LedgerUnusable
from stoker.ledger.records import DatasetRecord, DatasetState, RunOutcome, RunRecord
from support.intake_home import in_child
from support.ledger_samples import tamper
from support.life_home import DAY_S, LifeHome, life_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[LifeHome]:
    with life_home(tmp_path) as made:
        yield made


def over(home: LifeHome, name: str = "text", **more: object) -> DatasetRecord:
    """A dataset whose time was over eight days ago."""
    record, _ = home.tokens(name, days=1.0, **more)
    home.clock.advance(9 * DAY_S)
    return record


def cleared(report: GarbageReport) -> list[tuple[str, Because]]:
    return [(each.name, each.because) for each in report.collected]


def reasons(report: GarbageReport) -> dict[str, str]:
    return {each.name: each.why for each in report.kept}


# -- what goes


def test_what_expired_long_ago_goes_and_its_record_and_lineage_stay(home: LifeHome) -> None:
    record = over(home)
    run = home.run(home.tokens("live")[0], outcome=RunOutcome.FINISHED)
    key = home.objects(record)[0]
    home.cache.fetch(key, home.store.size(key))
    sizes = [home.store.size(each) for each in home.objects(record)]
    report = home.gc()
    assert cleared(report) == [("text", Because.EXPIRED)]
    assert (report.objects, report.object_bytes) == (len(sizes), sum(sizes))
    assert home.objects(record) == []
    assert home.cache.size_bytes() == 0
    assert home.now(record) == replace(record, state=DatasetState.COLLECTED)
    (act,) = home.acts("dataset.collect")
    assert (act["actor"], act["root"], act["because"]) == ("hands", record.root, "it expired")
    assert home.ledger.catalogue.run(run).id == run
    assert home.ledger.audit.verify().holds
    assert home.gc() == GarbageReport((), (), 0, 0, dry_run=False)


def test_what_has_a_destroyed_key_goes_at_once(home: LifeHome) -> None:
    record, _ = home.tokens()
    home.destroy(record)
    assert cleared(home.gc()) == [("text", Because.DESTROYED)]
    assert home.objects(record) == []


def test_what_lives_or_expired_a_moment_ago_stays(home: LifeHome) -> None:
    live, _ = home.tokens("live", days=100.0)
    recent, _ = home.tokens("recent", days=1.0)
    home.clock.advance(2 * DAY_S)
    report = home.gc()
    assert report.collected == ()
    assert set(reasons(report)) == {"recent"}
    assert "less than the grace ago" in reasons(report)["recent"]
    assert home.objects(live)
    assert cleared(home.gc(days=0.5)) == [("recent", Because.EXPIRED)]
    assert home.objects(recent) == []


def test_a_dry_run_says_the_same_and_removes_nothing(home: LifeHome) -> None:
    record = over(home)
    before, size = home.objects(record), home.ledger.audit.size
    told = home.gc(dry_run=True)
    assert (home.objects(record), home.ledger.audit.size, home.now(record)) == (before, size, record)
    done = home.gc()
    assert told == replace(done, dry_run=True)


def test_an_auditor_clears_nothing_away(home: LifeHome) -> None:
    record = over(home)
    with pytest.raises(NotAllowed, match="watcher is auditor and may not clear away datasets"):
        home.gc(by="watcher")
    assert home.objects(record)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE dataset SET expires_s = 5", "UPDATE dataset SET expires_s = 5, state = 'destroyed'"],
)
def test_whoever_can_only_write_the_database_has_nothing_cleared_away(home: LifeHome, statement: str) -> None:
    record, _ = home.tokens()
    tamper(home.home.root, statement)
    with pytest.raises(LedgerUnusable, match="changed outside Stoker"):
        home.gc()
    assert home.objects(record)


# -- what a run reads


@pytest.mark.parametrize("standing", [RunStanding.LIVE, RunStanding.ELSEWHERE])
@pytest.mark.parametrize("part", [False, True], ids=["its own", "a part"])
def test_what_a_run_may_be_reading_stays(home: LifeHome, standing: RunStanding, part: bool) -> None:
    for end in ("expired", "destroyed"):
        record, _ = home.tokens(end, days=1.0)
        own = home.tokens(f"own-{end}", days=400.0)[0] if part else record
        run = home.run(own, standing, parts=[record.root])
        if end == "destroyed":
            home.destroy(record)
        else:
            home.clock.advance(9 * DAY_S)
        report = home.gc()
        assert report.collected == ()
        assert run in reasons(report)[end]
        assert home.objects(record)
        home.watch.standings[run] = RunStanding.ENDED
        assert [name for name, _ in cleared(home.gc())] == [end]


def test_an_abandoned_run_holds_nothing_back(home: LifeHome) -> None:
    record, _ = home.tokens(days=1.0)
    run = home.run(record, RunStanding.ABANDONED)
    home.clock.advance(9 * DAY_S)
    assert cleared(home.gc()) == [("text", Because.EXPIRED)]
    with (
        pytest.raises(LedgerRefused, match="is collected; no run may read it"),
        home.ledger.act(actor="asker", action="run.resume", subject=f"run/{run}", detail={}) as catalogue,
    ):
        catalogue.reopen_run(run)


class Racing:
    """A watch during whose first answer somebody else does something."""

    def __init__(self, home: LifeHome, deed: Callable[[], object]) -> None:
        self._home, self._deed, self._done = home, deed, False

    def standing(self, run: RunRecord) -> RunStanding:
        if not self._done:
            self._done = True
            self._deed()
        return self._home.watch.standing(run)

    def last_sign_s(self, run: RunRecord) -> float | None:
        return None


def test_a_run_that_begins_between_looking_and_marking_is_seen(home: LifeHome) -> None:
    """The clock of who starts it is behind: for it the dataset still lives."""
    record, _ = home.tokens(days=1.0)
    home.run(record, outcome=RunOutcome.FINISHED)
    home.clock.advance(9 * DAY_S)
    begun: list[str] = []
    race = Racing(home, lambda: begun.append(home.run(record, RunStanding.LIVE)))
    report = home.gc(watch=race)
    assert report.collected == ()
    assert begun[0] in reasons(report)["text"]
    assert home.now(record) == record
    assert home.objects(record)
    assert home.acts("dataset.collect") == []


def test_a_run_that_begins_after_marking_is_refused(home: LifeHome) -> None:
    record = over(home)
    home.gc()
    with pytest.raises(LedgerRefused, match="is collected; no run may read it"):
        home.run(record, RunStanding.LIVE)


def test_of_two_collectors_at_once_one_clears_and_the_other_says_so(home: LifeHome) -> None:
    record, _ = home.tokens(days=1.0)
    home.run(record, outcome=RunOutcome.FINISHED)
    home.clock.advance(9 * DAY_S)
    first: list[GarbageReport] = []
    second = home.gc(watch=Racing(home, lambda: first.append(home.gc())))
    assert cleared(first[0]) == [("text", Because.EXPIRED)]
    assert reasons(second) == {"text": "another gc is clearing it away"}
    assert len(home.acts("dataset.collect")) == 1


# -- preparations that did not end


def unfinished(home: LifeHome, name: str = "half") -> str:
    """A preparation that was begun, wrote some objects, and was killed."""
    version = "ab" * 16
    begin = {"version": version, "review": "rev"}
    with home.ledger.act(
        actor="asker", action="dataset.prepare.begin", subject=f"dataset/{name}", detail=begin
    ):
        pass
    home.backend.create_kek(f"dataset/{name}/{version}", Purpose.DATASET, expires_s=None)
    for number in range(3):
        home.store.create(f"datasets/{name}/{version}/{number:08d}.stk", b"noise")
    return version


def test_what_a_killed_preparation_left_goes_after_the_grace(home: LifeHome) -> None:
    version = unfinished(home)
    assert "may be gone on with" in reasons(home.gc())["half"]
    home.clock.advance(8 * DAY_S)
    report = home.gc()
    assert (cleared(report), report.objects, report.object_bytes) == ([("half", Because.UNFINISHED)], 3, 15)
    assert list(home.store.list("datasets/half")) == []
    assert home.backend.info(KekRef(f"dataset/half/{version}", 1)).state is KekState.DEACTIVATED
    assert home.gc().collected == ()


def test_what_was_gone_on_with_lately_stays(home: LifeHome) -> None:
    version = unfinished(home)
    home.clock.advance(8 * DAY_S)
    with home.ledger.act(
        actor="asker", action="dataset.prepare.resume", subject="dataset/half", detail={"version": version}
    ):
        pass
    assert "may be gone on with" in reasons(home.gc())["half"]
    home.clock.advance(8 * DAY_S)
    assert cleared(home.gc()) == [("half", Because.UNFINISHED)]


def test_what_a_preparation_at_work_writes_stays(home: LifeHome) -> None:
    unfinished(home)
    home.clock.advance(8 * DAY_S)
    with exclusive(home.home.locks_dir / "dataset-half.lock", "dataset half"):
        report = home.gc()
    assert reasons(report) == {"half": "a preparation of this name is at work"}
    assert len(list(home.store.list("datasets/half"))) == 3


def test_what_another_house_has_put_into_the_store_stays(home: LifeHome) -> None:
    home.store.create(f"datasets/theirs/{'cd' * 16}/00000000.stk", b"noise")
    home.clock.advance(100 * DAY_S)
    assert home.gc().collected == ()
    assert len(list(home.store.list("datasets/theirs"))) == 1


# -- killed in the middle


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_collector_that_is_killed_is_finished_by_the_next(tmp_path: Path, after: int) -> None:
    """SIGKILL between marking and removing, and in the middle of removing."""
    with life_home(tmp_path) as home:
        record = over(home)
        live, _ = home.tokens("live", days=1000.0)
        now_s = home.clock.now_s()

    def collect_and_die() -> None:
        with life_home(tmp_path) as home:
            home.clock.advance(now_s - home.clock.now_s())
            left = [after]

            def dying(prefix: str) -> int:
                objects = sorted(home.store.list(prefix), key=lambda key: "/manifest/" in key)  # shards first
                for key in objects:
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    home.store.delete(key)
                return len(objects)

            home.store.delete_prefix = dying  # type: ignore[method-assign]
            home.gc()

    assert in_child(collect_and_die) == signal.SIGKILL
    with life_home(tmp_path) as home:
        home.clock.advance(now_s - home.clock.now_s())
        assert home.now(record).state is DatasetState.COLLECTED
        remaining = home.objects(record)
        assert remaining
        assert len([key for key in remaining if "/manifest/" in key]) == 3 - after
        report = home.gc()
        assert cleared(report) == [("text", Because.INTERRUPTED)]
        assert report.objects == len(remaining)
        assert home.objects(record) == []
        assert home.objects(live)
        assert home.ledger.audit.verify().holds
        assert home.gc().collected == ()
