"""Which form a recipe has: its phases, and who does them. Another form of recipe is added here."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.intake.building import TextForm, text_phases
from stoker.intake.plan import Unit
from stoker.intake.records.grouping import group
from stoker.intake.records.preparing import RecordsForm, record_phases
from stoker.intake.source_reader import SourceReader
from stoker.intake.tasks import Form
from stoker.intake.workplace import Workplace
from stoker.spec.recipe import RecipeSpec


def phases_of(recipe: RecipeSpec) -> tuple[str, ...]:
    """The phases that a recipe takes, in order."""
    return record_phases(recipe) if recipe.records.parts else text_phases(recipe)


def units_of(recipe: RecipeSpec, source: SourceReader) -> Sequence[Unit]:
    """What pages are made of: the documents of a text recipe, the records of one of records."""
    return group(source.files) if recipe.records.parts else source.documents


def form_of(work: Workplace) -> Form:
    """The form of the preparation at a workplace."""
    return RecordsForm(work) if work.plan.recipe.records.parts else TextForm(work)
