"""Looking at samples: who may, which are chosen, what is shown, and that nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.intake.errors import (
    DatasetEnded,
    NoSuchSplit,
    NotAllowed,
    OtherPurpose,
    ReviewExpired,
    ReviewRevoked,
)
from stoker.intake.review import revoke_review
from stoker.intake.sampling import SampleReport, choose, printable, sample_dataset
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.errors import KeyExpired
from stoker.keys.refs import KekRef
from stoker.ledger.records import DatasetRecord
from stoker.store.errors import CorruptStream
from support.life_home import DAY_S, TOKENIZER, LifeHome, life_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[LifeHome]:
    with life_home(tmp_path) as made:
        yield made


def look(home: LifeHome, record: DatasetRecord, by: str = "decider", **more: Any) -> SampleReport:
    given: dict[str, Any] = {"split": "train", "count": 5, "seed": 3, "purpose": None, "characters": 1000}
    return sample_dataset(
        record,
        actor=by,
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        clock=home.clock,
        **(given | more),
    )


@given(st.integers(1, 3000), st.integers(0, 200), st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
def test_the_choice_has_no_repetition_and_begins_the_same_when_more_is_asked(
    samples: int, count: int, seed: int
) -> None:
    chosen = choose(samples, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, samples)
    assert all(0 <= index < samples for index in chosen)
    assert choose(samples, count + 5, seed)[: len(chosen)] == chosen


def test_the_choice_is_a_permutation_that_the_seed_decides() -> None:
    assert sorted(choose(1000, 1000, 1)) == list(range(1000))
    assert choose(1000, 20, 1) != choose(1000, 20, 2)
    assert len(choose(10**18, 50, 1)) == 50  # in no time, however many there are


def test_no_part_of_a_dataset_is_favoured() -> None:
    """Of 100 samples, drawn first by 5,000 seeds, each tenth comes 400 to 600 times."""
    tenths = [0] * 10
    for seed in range(5000):
        tenths[choose(100, 1, seed)[0] // 10] += 1
    assert all(400 < count < 600 for count in tenths), tenths


def test_tokens_are_shown_as_what_they_say(home: LifeHome) -> None:
    record, written = home.tokens()
    report = look(home, record)
    assert [row.index for row in report.rows] == list(choose(1100, 5, 3))
    tokenizer = load_tokenizer(TOKENIZER)
    for row in report.rows:
        (field,) = row.fields
        said = tokenizer.decode(written["train"][row.index].tolist(), skip_special_tokens=False)
        assert field.text == printable(said)
        assert (field.kind, field.values, field.bytes) == ("tokens", 17, 34)
        assert all(char == "\n" or char.isprintable() for char in field.text)
    assert look(home, record) == report
    assert look(home, record, split="heldout", count=100).samples == 7


def test_every_field_of_a_record_is_shown_and_text_as_text(home: LifeHome) -> None:
    record, written = home.records()
    report = look(home, record, count=30)
    assert sorted(row.index for row in report.rows) == list(range(30))
    for row in report.rows:
        source = written["train"][row.index]
        fields = {field.name: field for field in row.fields}
        assert list(fields) == ["image", "text", "words", "box", "label"]
        assert (fields["image"].text, fields["image"].bytes) == (None, len(source["image"]))
        assert fields["image"].numbers == ()
        assert fields["text"].text == f"Picture {row.index}: caf\u00e9\\x1b]0;title\\x07"
        assert fields["words"].values == row.index % 5
        assert fields["box"].numbers == (row.index / 2,) * 4
        assert fields["label"].numbers == (row.index - 3,)


def test_long_texts_are_cut(home: LifeHome) -> None:
    record, _ = home.records()
    (row,) = look(home, record, count=1, characters=7).rows
    assert row.fields[1].text == "Picture"


def test_a_look_is_recorded_before_anything_is_opened(home: LifeHome) -> None:
    record, _ = home.tokens()
    look(home, record, "decider", seed=None)
    (act,) = home.acts("dataset.sample")
    assert (act["actor"], act["root"], act["review"]) == ("decider", record.root, record.review)
    assert (act["split"], act["count"], act["purpose"]) == ("train", 5, "research")
    for key in home.objects(record):
        if key.endswith(".stk"):
            path = home.home.store_dir / key
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptStream):
        look(home, record)
    assert len(home.acts("dataset.sample")) == 2


@pytest.mark.parametrize("by", ["decider", "boss"])
def test_reviewers_and_admins_may_look(home: LifeHome, by: str) -> None:
    record, _ = home.tokens(samples=20)
    assert len(look(home, record, by).rows) == 5


@pytest.mark.parametrize("by", ["asker", "hands", "watcher"])
def test_nobody_else_may_not_even_who_prepared_it(home: LifeHome, by: str) -> None:
    record, _ = home.tokens(samples=20)
    with pytest.raises(NotAllowed, match="may not look at samples"):
        look(home, record, by)
    assert home.acts("dataset.sample") == []


def test_without_a_review_in_force_nobody_looks(home: LifeHome) -> None:
    review = home.review(home.source(), days=5.0)
    record, _ = home.tokens(review=review)
    with pytest.raises(OtherPurpose, match="not for export"):
        look(home, record, purpose="export")
    home.clock.advance(6 * DAY_S)
    with pytest.raises(ReviewExpired):
        look(home, record)
    other, _ = home.tokens("other")
    revoke_review(
        other.review,
        reason="no",
        revoked_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    with pytest.raises(ReviewRevoked):
        look(home, other)
    assert home.acts("dataset.sample") == []


def test_what_is_over_is_not_shown(home: LifeHome) -> None:
    record, _ = home.tokens(days=1.0)
    home.clock.advance(2 * DAY_S)
    with pytest.raises(DatasetEnded, match="expired at"):
        look(home, record)
    gone, _ = home.tokens("gone")
    home.destroy(gone)
    with pytest.raises(DatasetEnded, match="is destroyed"):
        look(home, home.now(gone))
    assert home.acts("dataset.sample") == []
    early, _ = home.tokens("early")
    home.backend.expire_earlier(KekRef.parse(early.kek), home.clock.now_s())
    with pytest.raises(KeyExpired):
        look(home, early)


def test_an_unknown_split_names_those_that_there_are(home: LifeHome) -> None:
    record, _ = home.tokens(samples=20)
    with pytest.raises(NoSuchSplit, match="has no split 'tset'; it has train, heldout"):
        look(home, record, split="tset")
    assert home.acts("dataset.sample") == []


def test_nothing_plain_is_left_of_a_look(home: LifeHome) -> None:
    record, _ = home.records()
    before = {path for path in home.home.root.rglob("*") if path.is_file()}
    look(home, record, count=30)
    after = {path for path in home.home.root.rglob("*") if path.is_file()}
    assert after == before
    assert all(b"caf\xc3\xa9" not in path.read_bytes() for path in after)
