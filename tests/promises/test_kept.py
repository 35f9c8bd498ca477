"""A home where nothing is broken: every promise is kept, on a whole home, an empty one and half of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stoker.core.clock import ManualClock
from stoker.promises.promise import Standing
from stoker.spec.records import RecordPart, RecordsSpec
from support.promise_home import DAY_S, RECIPE, PromiseHome, broken, open_promise_home, promise, standings


def test_every_promise_is_kept_and_each_check_says_what_it_saw(house: PromiseHome) -> None:
    report = house.verify()
    assert set(standings(report).values()) == {Standing.KEPT}
    assert report.kept == 8
    assert all(check.tried and check.seen for each in report.promises for check in each.checks)


def test_on_an_empty_home_nothing_is_claimed_that_was_not_tried(tmp_path: Path) -> None:
    with open_promise_home(tmp_path) as house:
        report = house.verify()
    found = standings(report)
    assert found.pop(3) is Standing.KEPT  # it is tried on a scratch key store, whatever the home holds
    assert set(found.values()) == {Standing.UNTRIED}
    assert all(each.missing for each in report.promises if each.number != 3)


def test_a_home_without_a_run_has_untried_promises_and_no_broken_one(tmp_path: Path) -> None:
    with open_promise_home(tmp_path) as house:
        house.found()
        house.approve(house.bring_letters("letters", count=12))
        house.prepare("text", "letters")
        report = house.verify()
    untried = [number for number, each in standings(report).items() if each is Standing.UNTRIED]
    assert (untried, broken(report)) == ([5, 7], set())
    assert "isolated" in promise(report, 5).missing


def test_all_is_kept_after_the_dataset_was_destroyed_by_two_people(house: PromiseHome) -> None:
    assert house.destroy(house.dataset.kek).holds
    report = house.verify()
    assert broken(report) == set()
    reading = [check for check in promise(report, 3).checks if "whose key is gone" in check.tried]
    assert [check.seen.split(" ", 1)[1] for check in reading] == ["refused (key-destroyed)"] * 2


def test_all_is_kept_after_everything_has_expired(place: Path, house: PromiseHome) -> None:
    later = ManualClock(house.clock.now_s() + 90 * DAY_S)
    with open_promise_home(place, later) as much_later:
        report = much_later.verify()
    assert broken(report) == set()
    assert any("key-expired" in check.seen for check in promise(report, 3).checks)


def test_the_promises_are_kept_while_a_second_source_and_dataset_live(house: PromiseHome) -> None:
    house.approve(house.bring_letters("more", count=12))
    house.prepare("more-text", "more")
    report = house.verify()
    assert broken(report) == set()
    (token_ids,) = (check for check in promise(report, 2).checks if "token ids" in check.tried)
    assert token_ids.tried == "canaries as token ids, inside 2 datasets"


def test_the_promises_are_kept_while_a_dataset_of_records_lives(house: PromiseHome) -> None:
    house.approve(house.bring_letters("more", count=12))
    recipe = replace(RECIPE, records=RecordsSpec(parts=(RecordPart.TEXT,), records_per_block=2))
    house.prepare("more-records", "more", recipe)
    report = house.verify()
    assert broken(report) == set()
    (token_ids,) = (check for check in promise(report, 2).checks if "token ids" in check.tried)
    assert token_ids.tried == "canaries as token ids, inside 1 datasets"
    assert "1 datasets of records" in token_ids.seen
    assert [check.tried for check in promise(report, 6).checks if "more-records" in check.tried] == [
        "the order of more-records dealt to 1, 2, 3 and 4 ranks",
        "samples of more-records in an epoch",
    ]
