"""Which form a recipe has: its phases, and who does them. Another form of recipe is added here."""

from __future__ import annotations

from stoker.intake.building import TextForm, text_phases
from stoker.intake.tasks import Form
from stoker.intake.workplace import Workplace
from stoker.spec.recipe import RecipeSpec


def phases_of(recipe: RecipeSpec) -> tuple[str, ...]:
    """The phases that a recipe takes, in order."""
    return text_phases(recipe)


def form_of(work: Workplace) -> Form:
    """The form of the preparation at a workplace."""
    return TextForm(work)
