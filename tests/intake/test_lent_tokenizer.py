"""A dataset that uses another one's tokenizer: with leave, no longer than it, and named by what it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import ConfigError
from stoker.intake.errors import DatasetEnded, ReviewRevoked
from stoker.intake.prepare import recipe_digest
from stoker.intake.reading import DatasetRows
from stoker.intake.review import revoke_review
from stoker.ledger.errors import UnknownDataset
from stoker.ledger.records import DatasetRecord, DatasetState
from support.promise_home import RECIPE, PromiseHome, open_promise_home

BORROWING = replace(RECIPE, tokenizer_of="text")


@pytest.fixture(scope="module")
def lending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with dataset `text` of one source, and another source whose use is approved."""
    place = tmp_path_factory.mktemp("lending")
    with open_promise_home(place) as home:
        home.found()
        home.approve(home.bring_letters("letters", count=8))
        home.approve(home.bring_letters("notebook", count=12))
        home.prepare("text", "letters", replace(RECIPE, expires_after_days=9.0))
    return place


@pytest.fixture
def home(lending: Path, tmp_path: Path) -> Iterator[PromiseHome]:
    shutil.copytree(lending, tmp_path / "copy")
    with open_promise_home(tmp_path / "copy") as opened:
        yield opened


def tokenizer_of(home: PromiseHome, record: DatasetRecord) -> str | None:
    rows = DatasetRows.open(record, ledger=home.ledger, backend=home.backend, store=home.store)
    return rows.tokenizer_json()


def nothing_was_begun(home: PromiseHome) -> bool:
    return not home.ledger.catalogue.datasets("notes") and not list(home.store.list("datasets/notes"))


def test_the_tokenizer_is_the_lenders_and_the_dataset_ends_no_later_than_it(home: PromiseHome) -> None:
    lender = home.dataset
    borrower = home.prepare("notes", "notebook", BORROWING)
    trained = home.prepare("own", "notebook")
    assert tokenizer_of(home, borrower) == tokenizer_of(home, lender) != tokenizer_of(home, trained)
    assert borrower.expires_s == lender.expires_s < trained.expires_s
    assert borrower.figures["tokenizer_of"] == lender.root
    assert "tokenizer_of" not in trained.figures
    begun = [each for each in home.ledger.audit.entries() if each.action == "dataset.prepare"]
    assert [each.detail.get("tokenizer_of") for each in begun] == [None, lender.root, None]


def test_it_is_found_again_until_another_version_lends(home: PromiseHome) -> None:
    first = home.prepare("notes", "notebook", BORROWING)
    assert home.prepare("notes", "notebook", BORROWING) == first
    newer = home.prepare("text", "letters", replace(RECIPE, seed=5))
    assert home.prepare("notes", "notebook", BORROWING).figures["tokenizer_of"] == newer.root


def test_the_recipes_digest_names_the_lenders_root_and_is_as_before_without_one() -> None:
    digests = {recipe_digest(RECIPE), recipe_digest(BORROWING, "1" * 64), recipe_digest(BORROWING, "2" * 64)}
    assert len(digests) == 3


def test_an_unknown_lender_is_named(home: PromiseHome) -> None:
    with pytest.raises(UnknownDataset, match="txet"):
        home.prepare("notes", "notebook", replace(RECIPE, tokenizer_of="txet"))
    assert nothing_was_begun(home)


def test_a_lender_that_has_ended_does_not_lend(home: PromiseHome) -> None:
    with home.ledger.act(actor="asker", action="test", subject="dataset/text", detail={}) as catalogue:
        catalogue.set_dataset_state(home.dataset.root, DatasetState.DESTROYED)
    with pytest.raises(DatasetEnded, match="text"):
        home.prepare("notes", "notebook", BORROWING)
    assert nothing_was_begun(home)


def test_a_lender_whose_review_was_revoked_does_not_lend(home: PromiseHome) -> None:
    revoke_review(
        home.dataset.review,
        reason="no longer",
        revoked_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    with pytest.raises(ReviewRevoked):
        home.prepare("notes", "notebook", BORROWING)
    assert nothing_was_begun(home)


def test_a_tokenizer_of_more_tokens_than_the_vocabulary_is_refused(home: PromiseHome) -> None:
    with pytest.raises(ConfigError, match="has 300 tokens; vocabulary is 280"):
        home.prepare("notes", "notebook", replace(BORROWING, vocabulary=280))
    assert nothing_was_begun(home)
