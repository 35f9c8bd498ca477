"""The examples of other families, shortened: the same commands and files, the whole way, and they learn."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import soundfile

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
        return {each["name"]: each["value"] for each in self.finished(*overrides)["measured"]}

    def finished(self, *overrides: str) -> Any:
        """A run on one rank that came to its end."""
        summary = self.run("train", "run.toml", "launch.ranks=1", *overrides)
        assert summary["outcome"] == "finished"
        return summary

    def script(self, name: str, *words: str) -> str:
        """What a script of the example prints."""
        done = subprocess.run(
            [sys.executable, name, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


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


def made_mails(folder: Path, count: int, lengths: tuple[int, ...] = (30,)) -> None:
    """Mails in the form that examples/moderation/fetch.py gives, of so many words; a quarter is later."""
    chance = random.Random(5)
    words = {
        "spam": ["free", "money", "winner", "click", "offer", "cheap", "pills", "now", "guarantee"],
        "none": ["patch", "build", "meeting", "thanks", "kernel", "list", "release", "tomorrow"],
    }
    for number in range(count):
        label = chance.choice(("spam", "none"))
        side = "later" if number % 4 == 0 else "earlier"
        place = folder / side / f"{number:03d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = " ".join(
            chance.choices(words[label] + ["the", "and", "with", "for"], k=chance.choice(lengths))
        )
        place.with_suffix(".txt").write_text(f"{text}\n\nwrite to person{number}@example.org\n")
        place.with_suffix(".label").write_text(label)


def test_moderation_learns_from_pseudonymised_mails_and_is_judged_beside_its_baseline(tmp_path: Path) -> None:
    """On made mails; the real ones are fetched by who runs the example."""
    made_mails(tmp_path / "mails", 400)
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
    head, row = person.script("baseline.py", "mails", "--as", "ada").splitlines()
    figures_of = dict(zip(head.split(), row.split(), strict=True))
    assert {"precision", "recall", "F1", "AUROC", "ECE"} < set(figures_of)
    assert float(figures_of["F1"]) > 0.9


def made_voices(files: Path) -> None:
    """Both packages as fetch.py unpacks them: a letter is two tones, a voice its pitch."""
    letters = "abcdefghijklmnopqrst"  # fewer than these fetch.py does not take for an alphabet
    seconds = np.arange(2000) / 8000.0
    for number, voice in enumerate(["cs", "da", "de", "en", "es", "fr", "en_GB"]):
        alphabet = files / "usr/share/klettres" / voice / "alpha"
        alphabet.mkdir(parents=True)
        said, pitch = [], 1.0 + 0.01 * number
        for place, letter in enumerate(letters):
            tones = (400.0 * 1.35 ** (place % 5), 400.0 * 1.35 ** (place // 5))
            wave = np.concatenate([np.sin(2 * np.pi * pitch * tone * seconds) for tone in tones])
            soundfile.write(alphabet / f"{letter}.ogg", 0.3 * wave, 8000)
            said.append(f'<sound name="{letter.upper()}" file="{voice}/alpha/{letter}.ogg" />')
        (alphabet.parent / "sounds.xml").write_text(
            f"<klettres><language><alphabet>{''.join(said)}</alphabet></language></klettres>"
        )
    (files / "usr/share/asterisk/sounds/en_US_f_Allison/letters").mkdir(parents=True)


def test_letters_are_told_apart_that_a_voice_says_which_was_never_heard(tmp_path: Path) -> None:
    """On made voices; the real ones are fetched by who runs the example."""
    made_voices(tmp_path / "files")
    fetch = program("letters", "fetch")
    counts = fetch["laid_out"](fetch["voices"](tmp_path / "files"), tmp_path / "letters")
    assert counts == {"earlier": 6 * 20 * 5, "later": 20}
    person = Person(tmp_path / "home", "letters")
    dataset = person.prepared("letters", tmp_path / "letters")
    assert dataset["figures"]["heldout"]["records"] == 20
    small = ("speech.width=48", "speech.ffn_width=96", "speech.layers=1", "reading.clip_s=0.6")
    fast = ("train.global_batch=16", "train.learning_rate=1e-2")
    figures = person.trained(
        *small, *fast, "train.steps=240", "train.warmup_steps=24", "train.checkpoint_every_steps=240"
    )
    assert figures["exact"] > 0.5  # chance is 0.05


def test_a_language_run_on_a_package_of_documents_is_judged_beside_zlib_and_xz(tmp_path: Path) -> None:
    """On Python's own reference in a package made here; Debian's is fetched by who runs the example."""
    fetch = program("kernel-docs", "fetch")
    documents = tmp_path / "package" / fetch["DOCUMENTS"]
    for place in (documents, documents / "translations", tmp_path / "package/DEBIAN"):
        place.mkdir(parents=True)
    (tmp_path / "package/DEBIAN/control").write_text(
        "Package: made\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: made\n"
    )
    for name, text in topics.items():
        (documents / f"{name}.rst.gz").write_bytes(gzip.compress(text.encode()))
    (documents / "short.rst").write_text("short texts are not packed\n")
    (documents / "translations/other.rst").write_text("in another language\n")
    subprocess.run(["dpkg-deb", "--build", tmp_path / "package", tmp_path / "made.deb"], check=True)
    files, size_bytes = fetch["laid_out"](tmp_path / "made.deb", tmp_path / "docs")
    assert files == len(topics) + 1
    assert size_bytes > 400_000
    person = Person(tmp_path / "home", "kernel-docs")
    dataset = person.prepared("kernel-docs", tmp_path / "docs", "vocabulary=1024", "heldout_fraction=0.1")
    assert dataset["figures"]["heldout"]["files"] > 2
    small = ("model.layers=2", "model.width=64", "model.heads=1", "model.kv_heads=1", "model.ffn_width=192")
    summary = person.finished(
        *small, "train.steps=120", "train.warmup_steps=6", "train.checkpoint_every_steps=120"
    )
    judged = {each["name"]: each for each in summary["evaluations"]}
    assert set(judged) == {"model", "bigram", "zlib-9", "xz"}
    assert len({each["bytes"] for each in judged.values()}) == 1
    assert 1.0 < judged["xz"]["bits_per_byte"] < judged["zlib-9"]["bits_per_byte"] < 4.0
    assert judged["model"]["bits_per_byte"] < 3.0  # a byte of it costs 4.5 by its frequency alone


def test_a_label_of_pairs_that_neither_half_has_alone_is_told_by_who_sees_both(tmp_path: Path) -> None:
    """On made mails; the whole script of the example, shortened: three runs and their table."""
    made_mails(tmp_path / "mails", 600, lengths=(30, 300))
    counts = program("pairs", "make")["pair"](tmp_path / "mails", tmp_path / "pairs")
    assert sum(count for name, count in counts.items() if name.startswith("later")) == 150
    assert sum(counts.values()) == 2 * 450 + 150
    person = Person(tmp_path / "home", "pairs")
    small = [f"moderation.text.{each}" for each in ("width=32", "ffn_width=64", "sequence_tokens=64")]
    steps = [f"train.{each}=200" for each in ("steps", "checkpoint_every_steps")]
    words = (*small, *steps, "train.warmup_steps=20", "launch.ranks=1")
    printed = person.script("whole.py", str(tmp_path / "pairs"), *words)
    head, *lines = [line.split() for line in printed.splitlines()[2:]]
    rows = {tuple(line[:3]): dict(zip(head[3:], line[3:], strict=True)) for line in lines}
    assert len(rows) == len(lines) == 3 * 3 + 3 * 2
    for label in ("spam", "lure", "mismatch"):
        assert float(rows[label, "all", "both"]["f1"]) > 0.8, printed
    assert float(rows["spam", "all", "text"]["f1"]) > 0.9
    for half in ("text", "image"):
        assert float(rows["lure", "all", half]["f1"]) < 0.75  # at best 2/3
        assert float(rows["mismatch", "all", half]["auroc"]) < 0.75  # at best 1/2 but for chance
