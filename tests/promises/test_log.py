"""Promise 8 broken on purpose: a log that was edited, cut, forked or gone around."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.ledger.ledger import Ledger
from support.ledger_samples import tamper
from support.promise_home import PromiseHome, broken, failures, open_promise_home, promise

EDITS: dict[str, tuple[str, str]] = {
    "an edited entry": ("UPDATE audit_entry SET actor = 'mallory' WHERE idx = 3", "entry 3, edited"),
    "a removed entry": ("DELETE FROM audit_entry WHERE idx = 5", "entry 5, removed"),
    "a cut tail": ("DELETE FROM audit_entry WHERE idx >= 12", "entry 12, cut"),
    "a removed checkpoint": ("DELETE FROM audit_checkpoint WHERE size = 4", "entry 3, checkpoint_missing"),
    "no checkpoint at all": ("DELETE FROM audit_checkpoint", "checkpoint_missing"),
    "a spoiled checkpoint": (
        "UPDATE audit_checkpoint SET note = 'x' WHERE size = 8",
        "entry 7, checkpoint_edited",
    ),
    "a person's role": ("UPDATE identity SET role = 'admin'", "identity asker was changed after entry 0"),
    "a dataset's figures": ("UPDATE dataset SET figures = '{}'", "was changed after entry"),
    "a run's start": ("UPDATE run SET started_by = 'mallory'", "was changed after entry"),
    "a checkpoint's digest": ("UPDATE checkpoint SET attempt = 9 WHERE step = 2", "was changed after entry"),
    "a run taken away": ("DELETE FROM checkpoint", "is gone from the catalogue"),
    "a row put in": (
        "INSERT INTO tombstone SELECT 'dataset/x#1', 'a', 'b', 1.0, 0, 0",
        "is in the catalogue, but no entry of the log wrote it",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_the_ledgers_file_is_named(name: str, house: PromiseHome) -> None:
    statement, why = EDITS[name]
    tamper(house.home.root, statement)
    report = house.verify()
    assert 8 in broken(report)
    (check,) = failures(report, 8)
    assert check.tried == "every hash, signature and catalogue row"
    assert why in check.seen


def test_a_lost_head_is_named(place: Path) -> None:
    with open_promise_home(place) as house:
        (place / "home" / "ledger.head").unlink()
        report = house.verify(8)
    assert broken(report) == {8}
    assert "head_missing" in failures(report, 8)[0].seen


def test_a_tail_cut_with_its_tree_and_checkpoints_is_named_by_the_head(house: PromiseHome) -> None:
    cut_whole(house.home.root, 10)
    assert (
        "entry 10, cut: the log ends after 10 entries, but ledger.head"
        in failures(house.verify(8), 8)[0].seen
    )


def cut_whole(folder: Path, size: int) -> None:
    """Turn the log back to `size` entries, as if the rest had never been; the catalogue stays."""
    tamper(
        folder,
        ("DELETE FROM audit_entry WHERE idx >= ?", (size,)),
        ("DELETE FROM audit_checkpoint WHERE size > ?", (size,)),
        ("DELETE FROM audit_node WHERE ((idx + 1) << level) > ?", (size,)),
    )


def test_a_fork_signed_with_the_same_key_is_named(place: Path, tmp_path: Path) -> None:
    """A copy of the ledger goes its own way; one of its checkpoints comes here."""
    fork = shutil.copytree(place / "home", tmp_path / "fork")
    cut_whole(fork, 10)
    (fork / "ledger.head").unlink()
    clock = ManualClock(4e9)
    with Ledger.open(f"sqlite:///{fork}/ledger.db", fork / "ledger.key", clock) as ledger:
        ledger.accept_log(actor="mallory", reason="another story")
        forked = ledger.audit.checkpoint()
    tamper(
        place / "home",
        (
            "UPDATE audit_checkpoint SET root = ?, note = ? WHERE size = ?",
            (forked.root, forked.text, forked.size),
        ),
    )
    with open_promise_home(place) as house:
        report = house.verify(8)
    assert f"entry {forked.size - 1}, forked" in failures(report, 8)[0].seen


def test_a_ledger_turned_back_with_its_head_is_named_by_what_the_store_holds(
    place: Path, tmp_path: Path
) -> None:
    """The whole ledger of an earlier day is put back. It is whole in itself; the store knows better."""
    copy = tmp_path / "earlier"
    copy.mkdir()
    for path in (place / "home").glob("ledger.*"):
        shutil.copy(path, copy)
    with open_promise_home(place) as house:
        house.approve(house.bring_letters("more", count=12))
        prefix = f"sources/more/{house.ledger.catalogue.latest_source('more').version}"
        assert broken(house.verify(8)) == set()
    for path in (place / "home").glob("ledger.*"):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy(path, place / "home")
    with open_promise_home(place) as house:
        report = house.verify(8)
    (check,) = failures(report, 8)
    assert check.tried == "4 sources, datasets and runs in the store"
    assert check.seen == f"{prefix} are of no act in the log"


def test_an_import_that_was_interrupted_is_of_an_act_in_the_log(house: PromiseHome) -> None:
    detail = {"version": "5a" * 16}
    with house.ledger.act(actor="asker", action="source.import.begin", subject="source/half", detail=detail):
        pass
    house.store.create(f"sources/half/{'5a' * 16}/00000000.stk", b"what a crash left")
    assert broken(house.verify(8)) == set()


def test_a_ledger_that_is_no_ledger_any_more_breaks_promises_and_not_the_report(house: PromiseHome) -> None:
    tamper(house.home.root, "DROP TABLE review")
    report = house.verify()
    assert {1, 8} <= broken(report)
    assert len(report.promises) == 8
    assert all(each.checks or each.missing for each in report.promises)


def test_damage_that_makes_a_check_impossible_is_said_of_that_check(house: PromiseHome) -> None:
    tamper(house.home.root, "UPDATE audit_entry SET detail = 'x' WHERE idx = 9")
    report = house.verify()
    assert broken(report) == {1, 3, 4, 5, 8}
    for number in (1, 3, 4, 5):
        (check,) = failures(report, number)
        assert check.tried == "reading the audit log"
        assert "Entry 9 of the audit log is damaged" in check.seen
        assert len(promise(report, number).checks) > 1, "what does not rest on the log is tried all the same"
    assert "entry 9, edited" in failures(report, 8)[0].seen


def test_a_ledger_that_cannot_be_read_is_said_of_each_check_that_needs_it(house: PromiseHome) -> None:
    tamper(house.home.root, "UPDATE run SET outcome = 'splendid'")
    report = house.verify()
    assert {1, 4, 5, 6, 7, 8} <= broken(report)
    assert promise(report, 7).checks[0].tried == "the check itself"
