"""A small approved source of letters, to prepare in tests, and what is in the datasets made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from stoker.core.progress import SILENT
from stoker.intake.executors.local import LocalExecutor
from stoker.intake.importing import import_source
from stoker.intake.prepare import PrepareReport, prepare_dataset
from stoker.intake.tasks import Phase
from stoker.intake.workplace import Workplace
from stoker.ledger.records import DatasetRecord
from stoker.spec.recipe import ImportSpec, RecipeSpec
from support.intake_home import IntakeHome, approve_source

LETTERS: Final = RecipeSpec(
    vocabulary=300,
    tokenizer_sample_bytes=4000,
    sequence_tokens=32,
    heldout_fraction=0.3,
    chunk_log2=14,
    samples_per_shard=256,
)
PAGE_BYTES: Final = 16_000
"""Some six pages of the letters."""

_WORDS: Final = ("the", "furnace", "burns", "while", "seven", "stokers", "carry", "coal", "and", "count")


def write_letters(folder: Path, count: int = 24, word: str = "shovels") -> None:
    """`count` different letters of some 3.6 KB, each with an address and with `word` in it."""
    folder.mkdir()
    words = (*_WORDS, word)
    for number in range(count):
        text = " ".join(words[(number * 7 + place * place) % len(words)] for place in range(600))
        (folder / f"letter-{number:02}.txt").write_text(f"To person{number}@example.org\n{text}\n")


def approve_letters(home: IntakeHome, folder: Path, recipe: RecipeSpec = LETTERS) -> None:
    """Import the folder as the source `letters`, scan it, and have its use for research approved."""
    import_source(
        "letters",
        folder,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    )
    approve_source(home, "letters", recipe.policy)


def prepare_letters(home: IntakeHome, recipe: RecipeSpec = LETTERS, **options: Any) -> PrepareReport:
    """Prepare the dataset `mail`."""
    return prepare_dataset(
        "mail",
        "letters",
        recipe,
        purpose="research",
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=options.pop("progress", SILENT),
        clock=home.clock,
        locks=home.locks,
        **{"page_bytes": PAGE_BYTES, **options},
    )


class Planned(Exception):
    """The plan is made and nothing else has been done."""


class StopAtPlan(LocalExecutor):
    """Does nothing."""

    def run(self, work: Workplace, phase: Phase, tasks: object, done: object) -> None:
        raise Planned


def plan_letters(home: IntakeHome, recipe: RecipeSpec = LETTERS) -> None:
    """Leave a preparation of `mail` at its plan."""
    try:
        prepare_letters(home, recipe, executor=StopAtPlan())
    except Planned:
        return
    raise AssertionError("nothing was left to do")


def objects_of(home: IntakeHome, record: DatasetRecord) -> dict[str, bytes]:
    """Every object of the store that belongs to datasets, by name: of this one, and no work is left."""
    found = {key: home.store.get(key) for key in home.objects("datasets")}
    assert all(key.startswith(f"datasets/{record.name}/{record.version}/") for key in found)
    assert not any("/work/" in key for key in found)
    return found
