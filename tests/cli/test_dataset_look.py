"""`stoker dataset ls`, `show`, `sample` and `diff` through the real command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stoker.core.errors import EXIT_USAGE
from stoker.intake.errors import NoSuchSplit, NotAllowed, OtherPurpose, ReviewRevoked
from stoker.ledger.errors import UnknownDataset, UnknownSource
from stoker.store.errors import CorruptManifest
from support.cli_home import PREPARE, CliHome, flip

DAY_S = 86_400.0
HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    """A home with one prepared dataset."""
    return home_at("prepared")


def person(home: CliHome, name: str, role: str) -> None:
    home.stoker("identity", "create", name, "--role", role, by="")


def dataset(home: CliHome, name: str = "text") -> dict[str, Any]:
    (row,) = home.data("dataset", "show", name)["datasets"]
    return dict(row)


# -- ls and show


def test_show_leads_back_to_source_review_and_recipe_and_forward_to_every_use(home_at: HomeAt) -> None:
    home = home_at("trained")
    (run,) = home.runs()
    home.stoker("dataset", "sample", "text", "--count", "1", by="decider")
    shown = home.data("dataset", "show", "text")
    (row,) = shown["datasets"]
    (source,) = home.data("source", "show", "notes")["sources"]
    (review,) = home.data("review", "ls")["reviews"]
    assert (shown["source"]["version"], shown["source"]["root"]) == (
        source["version"],
        source["manifest_root"],
    )
    assert (shown["review"]["id"], shown["review"]["decided_by"]) == (review["id"], "decider")
    assert row["recipe"]["vocabulary"] == 300
    assert [split["name"] for split in shown["splits"]] == ["train", "heldout"]
    assert row["samples"] == sum(split["samples"] for split in shown["splits"])
    assert row["bytes"] > 0
    assert shown["schema"]["dtype"] == "uint16"
    assert row["runs"] == [run]
    assert [(use["what"], use["by"], use["outcome"]) for use in shown["uses"]] == [
        ("run", "asker", "finished"),
        ("sample", "decider", "done"),
    ]
    assert row["last_used_s"] == shown["uses"][1]["last_s"] > shown["uses"][0]["last_s"]
    text = home.stoker("dataset", "show", "text").out
    assert "vocabulary 300, sequence_tokens 32, heldout_fraction 0.1, chunk_log2 14\n" in text
    for word in (row["root"], review["id"], run, "until", "train ", "finished", row["recipe_digest"]):
        assert word in text
    # and back: the source and the run lead to the dataset
    back = home.data("source", "show", f"notes@{source['version'][:8]}")
    assert ([each["root"] for each in back["datasets"]], back["runs"]) == ([row["root"]], [run])
    assert [each["id"] for each in back["reviews"]] == [review["id"]]
    assert row["root"][:12] in home.stoker("source", "show", "notes").out
    assert row["recipe_digest"][:12] in home.stoker("run", "show", run).out


def test_ls_says_state_samples_size_expiry_and_last_use(home: CliHome) -> None:
    (row,) = home.data("dataset", "ls")["datasets"]
    assert (row["state"], row["last_used_s"], row["runs"]) == ("live", None, [])
    assert row["samples"] > 0
    assert row["expires_s"] > row["prepared_s"]
    text = home.stoker("dataset", "ls").out
    assert "last used" in text.splitlines()[0]
    assert f"{row['samples']:,}" in text
    late = home.data("dataset", "ls", ahead_s=400 * DAY_S)["datasets"]
    assert [each["state"] for each in late] == ["expired"]


def test_versions_are_named_by_their_beginnings(home: CliHome) -> None:
    first = dataset(home)
    home.stoker(*PREPARE, "seed=5")
    second = dataset(home)
    assert first["root"] != second["root"]
    assert dataset(home, f"text@{first['version'][:10]}") == first
    assert dataset(home, f"text@{first['root'][:10]}") == first
    told = home.refused(UnknownDataset, "dataset", "show", "text@zz")
    assert first["version"][:8] in told
    assert second["version"][:8] in told
    for wrong in ("../text", ""):
        home.refused(UnknownDataset, "dataset", "show", wrong)
    home.refused(UnknownSource, "source", "show", "notes@zz")


def test_show_says_what_the_ledger_knows_when_the_manifest_is_damaged(home: CliHome) -> None:
    before = dataset(home)
    (block,) = home.store.glob("datasets/text/*/manifest/superblock.json")
    flip(block, 30)
    shown = home.data("dataset", "show", "text")
    assert shown["datasets"] == [before]
    assert "superblock" in shown["manifest_problem"]
    assert (shown["splits"], shown["schema"]) == ([], {})
    assert "not opened: " in home.stoker("dataset", "show", "text").out
    home.refused(CorruptManifest, "dataset", "sample", "text", by="decider")


# -- sample


def test_sample_shows_text_that_cannot_drive_a_terminal_and_leaves_nothing_plain(home: CliHome) -> None:
    before = home.contents()
    answer = home.data("dataset", "sample", "text", "--count", "4", "--seed", "7", by="decider")
    assert len(answer["rows"]) == 4
    assert home.data("dataset", "sample", "text", "--count", "4", "--seed", "7", by="decider") == answer
    text = home.stoker("dataset", "sample", "text", "--seed", "7", "--split", "heldout", by="decider").out
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "heldout" in text
    assert "@example.org" not in text, "addresses were redacted"
    said = answer["rows"][0]["fields"][0]["text"]
    assert home.contents() == before
    for path in home.root.rglob("*"):
        assert not path.is_file() or said.encode() not in path.read_bytes(), path
    assert home.acts().count("dataset.sample") == 3


def test_sample_is_refused_to_whoever_may_not_look(home: CliHome) -> None:
    person(home, "hands", "operator")
    person(home, "watcher", "auditor")
    told = home.refused(NotAllowed, "dataset", "sample", "text", by="hands")
    assert "takes a role of: reviewer, admin" in told
    assert "is auditor" in home.refused_json(NotAllowed, "dataset", "sample", "text", by="watcher")["message"]
    home.refused(OtherPurpose, "dataset", "sample", "text", "--purpose", "sale", by="decider")
    home.refused(NoSuchSplit, "dataset", "sample", "text", "--split", "tset", by="decider")
    for wrong in (("--count", "101"), ("--seed", "-1")):
        assert home.stoker("dataset", "sample", "text", *wrong, code=EXIT_USAGE, by="decider").out == ""
    home.stoker("review", "revoke", dataset(home)["review"], by="decider")
    home.refused(ReviewRevoked, "dataset", "sample", "text", by="decider")
    assert "dataset.sample" not in home.acts()


# -- diff


def test_diff_tells_what_differs_and_which_files_to_who_may_know(home: CliHome) -> None:
    first = dataset(home)
    (home.texts / "letter-000.txt").write_text("Another letter.\n")
    (home.texts / "letter-001.txt").unlink()
    (home.texts / "new.txt").write_text("A new letter.\n")
    home.stoker("import", "notes", "texts")
    home.stoker("review", "scan", "notes")
    asked = home.data("review", "request", "notes", "--purpose", "research")
    home.approve(asked["reviews"][0])
    home.stoker(*PREPARE, "seed=5")
    second = dataset(home)
    names = (f"text@{first['version']}", "text")
    answer = home.data("dataset", "diff", *names)
    assert (answer["before"]["root"], answer["after"]["root"]) == (first["root"], second["root"])
    assert {"field": "seed", "before": 0, "after": 5} in answer["recipe"]
    assert (answer["files"]["added"], answer["files"]["removed"], answer["files"]["changed"]) == (1, 1, 1)
    text = home.stoker("dataset", "diff", *names).out
    for line in ("+ new.txt", "- letter-001.txt", "~ letter-000.txt", "1 added, 1 removed, 1 changed"):
        assert line in text
    person(home, "watcher", "auditor")
    hidden = home.stoker("dataset", "diff", *names, by="watcher").out
    assert "new.txt" not in hidden
    assert "watcher is auditor" in hidden
    assert second["source_root"] in hidden
    home.refused(UnknownDataset, "dataset", "diff", "text", "txet")
