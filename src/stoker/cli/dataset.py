"""`stoker dataset`: what has been prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import click

from stoker.cli.command import House, command
from stoker.cli.table import day, pairs, short, table
from stoker.core.canonical import JsonValue
from stoker.ledger.records import DatasetRecord


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One version of a dataset and where it comes from. Times are seconds since the Unix epoch."""

    name: str
    version: str
    root: str
    state: str
    kek: str
    source: str
    source_version: str
    source_root: str
    review: str
    recipe_digest: str
    recipe: Mapping[str, JsonValue]
    figures: Mapping[str, JsonValue]
    prepared_by: str
    prepared_s: float
    expires_s: float
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Datasets:
    """Dataset versions, newest last."""

    kind: ClassVar[str] = "datasets"
    version: ClassVar[int] = 1
    datasets: tuple[DatasetRow, ...]


def _row(record: DatasetRecord, house: House) -> DatasetRow:
    return DatasetRow(
        record.name,
        record.version,
        record.root,
        record.state,
        record.kek,
        record.source,
        record.source_version,
        record.source_root,
        record.review,
        record.recipe_digest,
        record.recipe,
        record.figures,
        record.prepared_by,
        record.prepared_s,
        record.expires_s,
        tuple(run.id for run in house.ledger.catalogue.runs_of_dataset(record.root)),
    )


def shown(value: JsonValue) -> str:
    """A figure as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _list_text(result: Datasets) -> str:
    rows = [
        (row.name, row.version[:8], short(row.root), row.state, row.source, day(row.expires_s), len(row.runs))
        for row in result.datasets
    ]
    return table(("name", "version", "root", "state", "source", "expires", "runs"), rows)


def _one_text(result: Datasets) -> str:
    (row,) = result.datasets
    return pairs(
        [
            ("dataset", row.name),
            ("version", row.version),
            ("root", row.root),
            ("state", row.state),
            ("key", row.kek),
            (
                "from",
                f"source {row.source}, version {row.source_version[:8]}, manifest {short(row.source_root)}",
            ),
            ("review", row.review),
            ("recipe", row.recipe_digest),
            ("prepared", f"{day(row.prepared_s)} by {row.prepared_by}"),
            ("expires", day(row.expires_s)),
            *((name.replace("_", " "), shown(value)) for name, value in row.figures.items()),
            ("runs", ", ".join(row.runs) or "none"),
        ]
    )


@click.group()
def dataset() -> None:
    """What has been prepared, from what, and until when."""


@command("ls", text=_list_text)
def ls(house: House) -> Datasets:
    """Every dataset version, newest last."""
    return Datasets(tuple(_row(record, house) for record in house.ledger.catalogue.datasets()))


@command("show", text=_one_text)
@click.argument("name")
def show(house: House, name: str) -> Datasets:
    """The newest version of dataset NAME, with its lineage and every run that used it."""
    return Datasets((_row(house.ledger.catalogue.latest_dataset(name), house),))


dataset.add_command(ls)
dataset.add_command(show)
