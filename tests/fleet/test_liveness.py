"""Which runs count as live: by locks, and with a real supervisor whose data is to be cleared away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.atomic import exclusive
from stoker.core.ids import RunId, new_version_id
from stoker.fleet.attempt_lock import lock_is_free
from stoker.fleet.liveness import HomeWatch
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import supervisor_lock
from stoker.intake.garbage import GarbageCollector, GarbageReport
from stoker.intake.life import RunStanding, expire_dataset
from stoker.keys.refs import Purpose
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, RunOutcome, RunRecord
from stoker.spec.mixture import MixturePartSpec
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from support.run_house import SPEC, RunHouse, run_house

ONE = replace(SPEC, launch=replace(SPEC.launch, ranks=1, restarts=0))
LONG = replace(
    ONE,
    dataset="",
    mixture=(MixturePartSpec("text", 0.7), MixturePartSpec("code", 0.3)),
    train=replace(ONE.train, steps=1_000_000, checkpoint_every_steps=1_000_000),
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as made:
        yield made


def standing(house: RunHouse, run: RunRecord) -> RunStanding:
    return HomeWatch(house.home).standing(run)


def test_a_run_is_live_while_a_lock_of_it_is_held_whatever_the_ledger_says(house: RunHouse) -> None:
    run = house.ledger.catalogue.run(house.start(ONE).run)
    running = replace(run, outcome=RunOutcome.RUNNING)
    assert standing(house, run) is RunStanding.ENDED
    assert standing(house, running) is RunStanding.ABANDONED
    for lock in (
        supervisor_lock(house.home, run.id),
        RunFolder.of(house.home.runs_dir, run.id).attempt_lock(1),
    ):
        with exclusive(lock, "the test"):
            assert standing(house, run) is RunStanding.LIVE
            assert standing(house, running) is RunStanding.LIVE
    assert standing(house, run) is RunStanding.ENDED


def test_a_run_of_another_home_is_elsewhere_until_its_end_is_recorded(
    house: RunHouse, tmp_path: Path
) -> None:
    run = house.ledger.catalogue.run(house.start(ONE).run)
    other = HomeWatch(type(house.home)(tmp_path / "other").prepare())
    assert other.standing(replace(run, outcome=RunOutcome.RUNNING)) is RunStanding.ELSEWHERE
    assert other.standing(run) is RunStanding.ENDED
    assert other.last_sign_s(run) is None


def test_the_last_sign_of_a_run_is_its_last_event(house: RunHouse) -> None:
    run = house.ledger.catalogue.run(house.start(ONE).run)
    sign_s = HomeWatch(house.home).last_sign_s(run)
    assert sign_s is not None
    assert run.started_s - 1.0 <= sign_s <= time.time() + 1.0


def test_the_lock_is_held_before_a_run_is_recorded_and_before_it_goes_on(
    house: RunHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else gc could take a run that has just been recorded for one whose processes are gone."""
    held: list[tuple[str, bool]] = []
    act = Ledger.act

    @contextmanager
    def watched(ledger: Ledger, *, action: str, subject: str, **more: Any) -> Iterator[Any]:
        with act(ledger, action=action, subject=subject, **more) as catalogue:
            if action in ("run.start", "run.resume"):
                lock = supervisor_lock(house.home, RunId(subject.removeprefix("run/")))
                held.append((action, not lock_is_free(lock)))
            yield catalogue

    monkeypatch.setattr(Ledger, "act", watched)
    deed = {"do": "signal", "rank": 0, "at_step": 3, "attempt": 1, "signal": 9}
    failed = house.start(ONE, deeds=[deed])
    house.resume(failed.run)
    assert held == [("run.start", True), ("run.resume", True)]


def test_a_run_that_lost_its_supervisor_goes_on_by_an_act_that_its_data_must_live_for(
    house: RunHouse,
) -> None:
    """Its record says `running` all the time: without an act of its own gc could pass it by."""
    failed = house.start(ONE, deeds=[{"do": "signal", "rank": 0, "at_step": 3, "attempt": 1, "signal": 9}])
    with house.ledger.act(
        actor="asker", action="run.resume", subject=f"run/{failed.run}", detail={}
    ) as catalogue:
        catalogue.reopen_run(failed.run)  # as its supervisor did, before it was killed
    acts = len(house.actions())
    house.resume(failed.run)
    assert house.actions()[acts] == "run.resume"


def start_apart(house: RunHouse) -> int:
    """The run in a process of its own, which has a ledger of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            home = house.home
            with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, house.clock) as ledger:
                replace(house, ledger=ledger).start(LONG)
        finally:
            os._exit(1)
    return pid


def wait_for(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120.0
    while not what():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.02)


def gc(house: RunHouse, **more: object) -> GarbageReport:
    store = ObjectStore.open(house.home.store_dir.as_uri())
    return GarbageCollector(
        actor="decider",
        ledger=house.ledger,
        backend=house.backend,
        store=store,
        cache=NodeCache(house.home.cache_dir, store, 1 << 30),
        watch=HomeWatch(house.home),
        clock=house.clock,
        locks=house.home.locks_dir,
        grace_s=0.0,
    ).run()


def a_second_dataset(house: RunHouse) -> DatasetRecord:
    """Dataset `code`, from the same source under the same review."""
    version = new_version_id()
    kek = house.backend.create_kek(f"dataset/code/{version}", Purpose.DATASET, expires_s=None)
    code = replace(house.dataset, name="code", version=version, root="a" * 64, kek=str(kek))
    with house.ledger.act(
        actor="asker", action="dataset.prepare", subject="dataset/code", detail={}
    ) as catalogue:
        catalogue.add_dataset(code)
    return code


@pytest.mark.parametrize("which", ["text", "code"])
def test_nothing_is_taken_from_a_live_run_and_everything_once_its_last_process_is_gone(
    house: RunHouse, which: str
) -> None:
    """A run of a mixture, whose first dataset or second part is over."""
    store = ObjectStore.open(house.home.store_dir.as_uri())
    over = {"text": house.dataset, "code": a_second_dataset(house)}[which]
    key = f"datasets/{which}/{over.version}/00000000.stk"
    store.create(key, b"noise")
    supervisor = start_apart(house)
    try:
        wait_for(lambda: bool(house.ledger.catalogue.runs()))
        run = house.ledger.catalogue.runs()[0]
        events = RunFolder.of(house.home.runs_dir, run.id).events
        wait_for(lambda: events.exists() and b'"step"' in events.read_bytes())
        expire_dataset(
            over,
            0.0,
            actor="decider",
            ledger=house.ledger,
            backend=house.backend,
            clock=house.clock,
        )
        report = gc(house)
        assert report.collected == ()
        assert report.kept[0].why == f"run {run.id} reads it"
        assert store.exists(key)
    finally:
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
    wait_for(lambda: standing(house, house.ledger.catalogue.run(run.id)) is RunStanding.ABANDONED)
    report = gc(house)
    assert [each.name for each in report.collected] == [which]
    assert not store.exists(key)
    assert house.ledger.catalogue.dataset_of_root(over.root).state is DatasetState.COLLECTED
