"""`stoker prepare`: an approved source becomes a sealed dataset."""

from __future__ import annotations

from pathlib import Path

import click

from stoker.cli.command import House, command
from stoker.cli.dataset import shown
from stoker.cli.table import day, pairs
from stoker.core.config import Layer, load, read_layer
from stoker.intake.prepare import PrepareReport, prepare_dataset
from stoker.spec.recipe import RecipeSpec


def prepare_text(report: PrepareReport) -> str:
    """Whether it was made or found, its root, and what is in it."""
    record = report.record
    figures = record.figures
    lines = [
        ("dataset", f"{record.name}, version {record.version[:8]}"),
        ("made", "found, nothing to do" if report.found else "now"),
        ("root", record.root),
        ("key", record.kek),
        ("expires", day(record.expires_s)),
        *((name.replace("_", " "), shown(value)) for name, value in figures.items()),
    ]
    if report.seconds:
        took = ", ".join(
            f"{name.replace('_', ' ')} {seconds:.1f} s" for name, seconds in report.seconds.items()
        )
        lines.append(("time", took))
    if report.unfinished_removed:
        lines.append(("cleaned", f"{report.unfinished_removed} unfinished preparations of this dataset"))
    return pairs(lines)


@command("prepare", text=prepare_text)
@click.argument("name")
@click.option("--source", required=True, help="The source to prepare; its newest version is taken.")
@click.option("--purpose", required=True, help="The purpose that a review allows.")
@click.option("--recipe", type=click.Path(path_type=Path), help="A TOML file with the recipe.")
@click.argument("overrides", nargs=-1)
def prepare(
    house: House, name: str, source: str, purpose: str, recipe: Path | None, overrides: tuple[str, ...]
) -> PrepareReport:
    """Prepare dataset NAME: redact, tokenise, pack, split, seal. Finds what was prepared before.

    OVERRIDES are recipe values such as vocabulary=2048.
    """
    layers: list[Layer] = [] if recipe is None else [read_layer(recipe)]
    return prepare_dataset(
        name,
        source,
        load(RecipeSpec, layers, overrides).value,
        purpose=purpose,
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
        clock=house.clock,
        locks=house.home.locks_dir,
    )
