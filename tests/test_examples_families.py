"""The examples of other families, shortened: the same commands and files, the whole way, and they learn."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


class Person:
    """Runs commands in a home of its own, with an example's folder as the working folder."""

    def __init__(self, home: Path, example: str) -> None:
        self.folder = EXAMPLES / example
        self.environment = {**os.environ, "STOKER_HOME": str(home)}

    def run(self, *words: str, actor: str | None = "ada") -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "stoker.cli", *words, *(("--as", actor) if actor else ()), "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return json.loads(done.stdout)["data"]

    def prepared(self, name: str, source: Path, *overrides: str) -> Any:
        """Everything up to the dataset, by two identities."""
        for identity, role in (("ada", "researcher"), ("ben", "reviewer")):
            self.run("identity", "create", identity, "--role", role, actor=None)
        self.run("import", name, str(source), "--settings", "import.toml")
        self.run("review", "scan", name)
        asked = self.run(
            "review", "request", name, "--purpose", "research", "--days", "1", "--recipe", "recipe.toml"
        )
        (review,) = asked["reviews"]
        decision = ("--digest", review["request_digest"], "--reason", "an example")
        self.run("review", "approve", review["id"], *decision, actor="ben")
        recipe = ("--purpose", "research", "--recipe", "recipe.toml")
        return self.run("prepare", name, "--source", name, *recipe, *overrides)["record"]

    def trained(self, *overrides: str) -> dict[str, float]:
        """The figures of a run."""
        summary = self.run("train", "run.toml", "launch.ranks=1", *overrides)
        assert summary["outcome"] == "finished"
        return {each["name"]: each["value"] for each in summary["measured"]}


def program(example: str, name: str) -> dict[str, Any]:
    """What a script of an example defines."""
    found: dict[str, Any] = {"__name__": name}
    exec(compile((EXAMPLES / example / f"{name}.py").read_text(), name, "exec"), found)
    return found


def test_digits_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path / "digits")])
    assert program("digits", "make")["main"]() == 0
    person = Person(tmp_path / "home", "digits")
    dataset = person.prepared("digits", tmp_path / "digits")
    assert dataset["figures"]["train"]["records"] > 1200
    figures = person.trained("train.steps=80", "train.warmup_steps=8", "train.checkpoint_every_steps=80")
    assert figures["accuracy"] > 0.5  # chance is 0.1; the whole example reaches what its README says


MAIL = """From: {sender}
Subject: [list] Re: {subject}
Content-Type: text/html; charset=utf-8

<html><style>p {{}}</style><p>{text}</p> write to {address}</html>
"""


def test_a_mail_becomes_what_its_reader_sees() -> None:
    read = program("moderation", "fetch")["read"]
    raw = MAIL.format(sender="Ada <A@B.org>", subject="Re: soup", text="hot &amp; good", address="x@y.org")
    sender, text = read(raw)
    assert sender == "a@b.org"
    assert [line.strip() for line in text.split("\n") if line.strip()] == [
        "soup",
        "hot & good write to x@y.org",
    ]


def test_moderation_learns_from_pseudonymised_mails_and_is_judged_beside_its_baseline(tmp_path: Path) -> None:
    """Made mails in the form that fetch.py gives; the real ones are fetched by who runs the example."""
    chance = random.Random(5)
    words = {
        "spam": ["free", "money", "winner", "click", "offer", "cheap", "pills", "now", "guarantee"],
        "none": ["patch", "build", "meeting", "thanks", "kernel", "list", "release", "tomorrow"],
    }
    for number in range(400):
        label = chance.choice(("spam", "none"))
        side = "later" if number % 4 == 0 else "earlier"
        place = tmp_path / "mails" / side / f"{number:03d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = " ".join(chance.choices(words[label] + ["the", "and", "with", "for"], k=30))
        place.with_suffix(".txt").write_text(f"{text}\n\nwrite to person{number}@example.org\n")
        place.with_suffix(".label").write_text(label)
    person = Person(tmp_path / "home", "moderation")
    dataset = person.prepared("mails", tmp_path / "mails", "vocabulary=400")
    assert dataset["figures"]["heldout"]["records"] == 100
    assert dataset["figures"]["redactions"]["email"] == 400
    small = ("moderation.text.width=32", "moderation.text.ffn_width=64", "moderation.text.sequence_tokens=96")
    figures = person.trained(
        *small, "train.steps=60", "train.warmup_steps=6", "train.checkpoint_every_steps=60"
    )
    assert figures["spam.f1"] > 0.9
    assert figures["spam.auroc"] > 0.95
    done = subprocess.run(
        [sys.executable, "baseline.py", "mails", "--as", "ada"],
        cwd=person.folder,
        env=person.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    head, row = done.stdout.splitlines()
    figures_of = dict(zip(head.split(), row.split(), strict=True))
    assert {"precision", "recall", "F1", "AUROC", "ECE"} < set(figures_of)
    assert float(figures_of["F1"]) > 0.9
