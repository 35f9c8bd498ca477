"""What bad input gets at the gate: reviews missing, undecided, denied, revoked, over, or of other bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.intake.errors import (
    OtherPurpose,
    ReviewDenied,
    ReviewExpired,
    ReviewMissing,
    ReviewRevoked,
    ReviewStale,
    ReviewUndecided,
    SelfReview,
)
from stoker.ledger.errors import UnknownSource
from stoker.store.errors import CorruptStream, ObjectMissing
from support.cli_home import DAY_S, PREPARE, CliHome, Contents, flip

HomeAt = Callable[[str], CliHome]


def asked(home: CliHome) -> str:
    """Ask for a review of the newest version; its id."""
    home.stoker("review", "scan", "notes")
    request = home.data("review", "request", "notes", "--purpose", "research")
    return str(request["reviews"][0]["id"])


def test_no_use_without_a_review_whatever_state_it_is_in(home_at: HomeAt) -> None:
    home = home_at("source")
    before = home.contents()
    said = home.refused(ReviewMissing, *PREPARE)
    assert "No review of source notes was ever requested." in said
    assert "stoker review request notes --purpose research" in said
    said = home.refused(ObjectMissing, "review", "request", "notes", "--purpose", "research")
    assert "Source notes, version" in said
    assert "stoker review scan notes" in said
    assert home.contents() == before

    first = asked(home)
    before = home.contents()
    said = home.refused(ReviewUndecided, *PREPARE)
    assert f"Review {first} (source notes, purpose research) waits for its decision." in said
    assert "other than asker" in said
    said = home.refused(SelfReview, "review", "approve", first, "--digest", home.digest_of(first))
    assert "asker" in said
    home.stoker("review", "deny", first, "--reason", "too many addresses", by="decider")
    said = home.refused(ReviewDenied, *PREPARE)
    assert (
        f"Review {first} (source notes, purpose research) was denied by decider: too many addresses." in said
    )

    second = asked(home)
    home.stoker("review", "approve", second, "--digest", home.digest_of(second), by="decider")
    said = home.refused(OtherPurpose, "prepare", "text", "--source", "notes", "--purpose", "advertising")
    assert "Source notes was reviewed for research, not for advertising." in said
    home.stoker("review", "revoke", second, "--reason", "found more", by="decider")
    assert "was revoked by decider: found more." in home.refused(ReviewRevoked, *PREPARE)
    assert home.contents().objects == before.objects
    assert home.contents().active_keys == before.active_keys
    assert home.records()["dataset"] == 0


def test_a_review_whose_time_is_over_allows_nothing_and_says_since_when(home_at: HomeAt) -> None:
    home = home_at("approved")
    before = home.contents()
    (review,) = home.data("review", "ls")["reviews"]
    said = home.refused(ReviewExpired, *PREPARE, ahead_s=31 * DAY_S)
    assert f"Review {review['id']} (source notes, purpose research) expired at " in said
    assert "stoker review request" in said
    assert home.contents() == before


def test_a_source_that_was_imported_again_is_not_covered_by_the_old_review(home_at: HomeAt) -> None:
    home = home_at("approved")
    (old,) = home.data("source", "show", "notes")["sources"]
    (home.texts / "letter-000.txt").write_text("Nobody has reviewed this.\n")
    home.stoker("import", "notes", "texts")
    (new,) = home.data("source", "show", "notes")["sources"]
    before = home.contents()
    error = home.refused_json(ReviewStale, *PREPARE)
    assert error["message"] == (
        f"The reviews of source notes cover other bytes than its version {new['version'][:12]}; "
        f"the newest covers version {old['version'][:12]}."
    )
    assert "Scan it and request a new review." in error["hint"]
    assert home.contents() == before


@pytest.mark.parametrize("level", ["source", "approved"])
def test_bytes_changed_in_quarantine_are_refused_and_named(home_at: HomeAt, level: str) -> None:
    home = home_at(level)
    shard = home.shards("sources/notes")[0]
    copy = shard.read_bytes()
    flip(shard, 200_000)
    before = home.contents()
    command = PREPARE if level == "approved" else ("review", "scan", "notes")
    said = home.refused(CorruptStream, *command)
    assert f"{shard.relative_to(home.store)}, chunk 0 of 1" in said
    assert "Restore it from a copy." in said
    if level == "approved":
        went_on_after_restoring(home, before, shard, copy)
    else:
        assert home.contents() == before


def test_a_shard_missing_from_quarantine_is_named(home_at: HomeAt) -> None:
    home = home_at("approved")
    shard = home.shards("sources/notes")[0]
    copy = shard.read_bytes()
    shard.unlink()
    before = home.contents()
    said = home.refused(ObjectMissing, *PREPARE)
    assert f"{shard.relative_to(home.store)} is not in the store {home.store}." in said
    went_on_after_restoring(home, before, shard, copy)


def went_on_after_restoring(home: CliHome, before: Contents, shard: Path, copy: bytes) -> None:
    """No dataset is there, only sealed work; with the shard from a copy the same command goes on from it."""
    after = home.contents()
    assert (after.records, after.half_written) == (before.records, ())
    left = set(after.objects) - set(before.objects)
    assert left
    assert all("/work/" in key for key in left)
    shard.write_bytes(copy)
    assert home.data(*PREPARE)["resumed"]
    assert not [key for key in home.contents().objects if "/work/" in key]


def test_a_source_that_is_not_there_is_named_with_the_nearest(home_at: HomeAt) -> None:
    home = home_at("source")
    said = home.refused(UnknownSource, "review", "scan", "note")
    assert "There is no source 'note'." in said
    assert "Did you mean 'notes'?" in said
