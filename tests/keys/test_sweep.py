"""A sweep on a real house: what it does is recorded, what is coming is told to those it concerns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.result import plain
from stoker.keys.overview import overview
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rotation import sealing_kek
from stoker.keys.states import KekState
from stoker.keys.sweep_plan import About
from stoker.keys.users import people_by_scope
from stoker.ledger.records import RunOutcome
from support.key_life import DAY_S, KeyLife
from support.life_home import life_home


@pytest.fixture
def life(tmp_path: Path) -> Iterator[KeyLife]:
    with life_home(tmp_path) as house:
        yield KeyLife(house)


def kek_of(life: KeyLife, days: float = 30.0) -> KekRef:
    record, _ = life.house.tokens(days=days)
    return KekRef.parse(record.kek)


def test_owner_and_reviewer_are_warned_in_the_ledger_the_list_the_report_and_json(life: KeyLife) -> None:
    kek = kek_of(life, days=40.0)
    assert life.sweep().done == ()
    life.house.clock.advance(11 * DAY_S)
    report = life.sweep()
    (told,) = report.done
    assert (told.kek, told.did, told.to) == (str(kek), "warn", ("asker", "decider"))
    (act,) = life.house.acts("key.warn")
    assert (act["about"], act["to"], act["actor"]) == ("expiry", ["asker", "decider"], "hands")
    (row,) = overview(ledger=life.house.ledger, backend=life.backend, clock=life.house.clock, only=[kek]).keys
    assert [(each.about, each.to) for each in row.warnings] == [(About.EXPIRY, ("asker", "decider"))]
    assert row.note.startswith("expires at ")
    shown = json.loads(json.dumps(plain(report)))
    assert shown["warnings"][0]["to"] == ["asker", "decider"]
    assert life.sweep().done == (), "told once"
    assert len(life.sweep().warnings) == 1, "and shown until it is over"
    life.house.clock.advance(22.5 * DAY_S)
    assert [each.did for each in life.sweep().done] == ["warn"], "more urgent now"


def test_a_dry_run_says_the_same_and_does_nothing(life: KeyLife) -> None:
    kek_of(life, days=3.0)
    doomed = kek_of(life, days=90.0)
    life.request(doomed)
    life.approve(doomed)
    life.house.clock.advance(8 * DAY_S)
    size = life.house.ledger.audit.size
    told = life.sweep(dry_run=True)
    assert (life.house.ledger.audit.size, life.backend.info(doomed).state) == (
        size,
        KekState.PENDING_DESTROY,
    )
    done = life.sweep()
    assert sorted((each.kek, each.did) for each in told.done) == sorted(
        (each.kek, each.did) for each in done.done
    )
    assert {each.did for each in done.done} == {"retire", "destroy", "prove"}
    assert life.backend.info(doomed).state is KekState.DESTROYED


def test_what_is_past_its_date_is_retired_and_waits_for_two_identities(life: KeyLife) -> None:
    kek = kek_of(life, days=3.0)
    life.house.clock.advance(4 * DAY_S)
    report = life.sweep()
    assert report.expired == (str(kek),)
    assert life.backend.info(kek).state is KekState.DEACTIVATED
    (act,) = life.house.acts("key.retire")
    assert act["because"] == "expiry"
    assert life.house.ledger.catalogue.tombstones() == (), "a sweep decides no destruction"


def test_a_key_is_retired_when_its_originator_usage_period_is_over(life: KeyLife) -> None:
    now_s = life.house.clock.now_s()
    kek = life.house.backend.create_kek(
        "source/notes/v1", Purpose.SOURCE, expires_s=None, wraps_until_s=now_s + 10 * DAY_S
    )
    life.house.clock.advance(5 * DAY_S)
    (warned,) = life.sweep().done
    assert (warned.did, "rotated" in warned.detail) == ("warn", True)
    life.house.clock.advance(6 * DAY_S)
    assert [each.did for each in life.sweep().done] == ["retire"]
    assert sealing_kek(life.backend, kek) == kek


def test_a_due_destruction_is_carried_out_and_proved_in_one_sweep(life: KeyLife) -> None:
    record, _ = life.house.tokens(days=90.0)
    kek = KekRef.parse(record.kek)
    life.cache(record)
    life.request(kek)
    life.approve(kek)
    (warned,) = life.sweep().done
    assert (warned.did, warned.to) == ("warn", ("asker", "decider"))
    life.house.clock.advance(7 * DAY_S)
    done = life.sweep()
    assert ([each.did for each in done.done], done.failed, done.holds) == (["destroy", "prove"], (), True)
    assert [action for _, action in life.acts(kek)][-2:] == ["key.destroy", "key.prove"]
    assert life.sweep().done == ()
    (row,) = overview(ledger=life.house.ledger, backend=life.backend, clock=life.house.clock, only=[kek]).keys
    assert (row.proof, row.note, row.warnings) == ("holds", "dead, and proved", ())


def test_what_fails_is_told_and_keeps_nothing_else_from_being_done(life: KeyLife) -> None:
    first, second = kek_of(life, days=3.0), kek_of(life, days=3.0)
    life.house.clock.advance(4 * DAY_S)
    broken = life.house.backend.deactivate

    def refuse(ref: KekRef) -> None:
        if ref == first:
            from stoker.keys.errors import KeyNotActive

            raise KeyNotActive("not now")
        broken(ref)

    life.house.backend.deactivate = refuse  # type: ignore[method-assign]
    report = life.sweep()
    assert [(each.kek, each.did) for each in report.failed] == [(str(first), "retire")]
    assert "key-not-active: not now" in report.failed[0].detail
    assert life.backend.info(second).state is KekState.DEACTIVATED
    assert not report.holds


def test_whom_a_key_concerns_follows_from_the_records(life: KeyLife) -> None:
    record, _ = life.house.tokens()
    run = life.house.run(record, outcome=RunOutcome.FINISHED)
    people = people_by_scope(life.house.ledger.catalogue)
    assert people[f"run/{run}"] == people[record.kek.partition("#")[0]]
    assert (people[f"run/{run}"].owner, people[f"run/{run}"].reviewer) == ("asker", "decider")
