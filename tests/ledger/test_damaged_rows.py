"""A catalogue row into which somebody wrote what the ledger never does is named, and crashes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.core.canonical import canonical_json
from stoker.core.ids import ReviewId
from stoker.ledger.catalogue import Catalogue
from stoker.ledger.errors import LedgerRefused, LedgerUnusable
from stoker.ledger.records import ReviewTermsRecord
from stoker.ledger.rows import MAX_JSON_DEPTH
from support import ledger_samples as samples

TERMS = ReviewTermsRecord(ReviewId("rev-1"), {"terms": {}, "policy": {"redact": []}, "answers": ""})


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with samples.open_ledger(tmp_path) as ledger:
        for write in (
            lambda catalogue: catalogue.add_source(samples.source_record()),
            lambda catalogue: catalogue.put_review(samples.review_record(), TERMS),
        ):
            with ledger.act(actor="alice", action="ask", subject="own-text", detail={}) as catalogue:
                write(catalogue)
    return tmp_path


def review(catalogue: Catalogue) -> object:
    return catalogue.review(ReviewId("rev-1"))


def terms(catalogue: Catalogue) -> object:
    return catalogue.review_terms(ReviewId("rev-1"))


@pytest.mark.parametrize(
    ("column", "value", "read", "said"),
    [
        ("review.expires_s", "soon", review, "expires_s is a str"),
        ("review.expires_s", float("inf"), review, "expires_s is inf"),
        ("review.purpose", b"research", review, "purpose is a bytes"),
        ("review.decision_signature", "s" * 64, review, "decision_signature is a str"),
        ("review.state", "perhaps", review, "perhaps"),
        ("review_terms.terms", "[]", terms, "a list, not an object"),
        ("review_terms.terms", "{", terms, "is damaged"),
        ("review_terms.terms", '{"answers":"", "terms":{}}', terms, "not in canonical form"),
        ("review_terms.terms", '{"terms":NaN}', terms, "is damaged"),
        ("review_terms.terms", r'{"answers":"\ud800"}', terms, "is damaged"),
        ("review_terms.terms", canonical_json(nested(MAX_JSON_DEPTH + 1)).decode(), terms, "nested too deep"),
        ("review_terms.terms", '{"a":' * 100_000 + "1" + "}" * 100_000, terms, "nested too deep"),
    ],
)  # fmt: skip
def test_a_row_that_holds_what_was_never_written_is_named(
    folder: Path, column: str, value: object, read: Callable[[Catalogue], object], said: str
) -> None:
    table, _, name = column.partition(".")
    with samples.open_ledger(folder) as ledger:
        assert read(ledger.catalogue) is not None
    samples.tamper(folder, (f"UPDATE {table} SET {name} = ?", (value,)))
    with samples.open_ledger(folder) as ledger, pytest.raises(LedgerUnusable, match="is damaged") as refusal:
        read(ledger.catalogue)
    assert said in refusal.value.message


def test_what_reading_would_refuse_is_not_written(folder: Path) -> None:
    def add(version: str, depth: int) -> None:
        record = samples.source_record(version=version, left_out=nested(depth))
        with ledger.act(actor="alice", action="import", subject="x", detail={}) as catalogue:
            catalogue.add_source(record)

    with samples.open_ledger(folder) as ledger:
        add("flat", MAX_JSON_DEPTH)
        with pytest.raises(LedgerRefused, match="nested too deep"):
            add("deep", MAX_JSON_DEPTH + 1)
        assert [each.version for each in ledger.catalogue.sources()] == ["v1", "flat"]
