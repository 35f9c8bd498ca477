"""`stoker import` and `stoker source`: raw data comes in, sealed from the first byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, human_bytes, pairs, short, table
from stoker.core.config import Layer, load, read_layer
from stoker.intake.importing import ImportReport, import_source
from stoker.intake.left_out import LeftOut
from stoker.ledger.records import SourceRecord
from stoker.spec.source import Form, ImportSpec


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One version of a source. Times are seconds since the Unix epoch."""

    name: str
    version: str
    manifest_root: str
    kek: str
    files: int
    content_bytes: int
    left_out: Mapping[str, int]
    imported_by: str
    imported_s: float


@dataclass(frozen=True, slots=True)
class Sources:
    """Source versions, newest last."""

    kind: ClassVar[str] = "sources"
    version: ClassVar[int] = 1
    sources: tuple[SourceRow, ...]


@dataclass(frozen=True, slots=True)
class MadeOfIt:
    """A dataset that was prepared from a source version."""

    name: str
    version: str
    root: str
    state: str
    review: str
    recipe_digest: str


@dataclass(frozen=True, slots=True)
class AskedOfIt:
    """A review of a source version."""

    id: str
    purpose: str
    state: str
    requested_by: str
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class SourceLineage:
    """One source version, and what follows from it: reviews, datasets, and the runs that read those.

    `sources` holds the one row.
    """

    kind: ClassVar[str] = "source"
    version: ClassVar[int] = 1

    sources: tuple[SourceRow, ...]
    reviews: tuple[AskedOfIt, ...]
    datasets: tuple[MadeOfIt, ...]
    runs: tuple[str, ...]


def _row(record: SourceRecord) -> SourceRow:
    return SourceRow(
        record.name,
        record.version,
        record.manifest_root,
        record.kek,
        record.files,
        record.content_bytes,
        record.left_out,
        record.imported_by,
        record.imported_s,
    )


def import_text(report: ImportReport) -> str:
    """What was taken, its digest, and what was left out and why."""
    record = report.record
    lines = [
        pairs(
            [
                ("source", f"{record.name}, version {record.version[:8]}"),
                *(("decided" if number == 0 else "", text) for number, text in enumerate(report.decided[:8])),
                ("taken", f"{record.files:,} files, {human_bytes(record.content_bytes)}"),
                ("sealed", f"{report.shards} shards, {human_bytes(report.object_bytes)}"),
                ("manifest", record.manifest_root),
            ]
        )
    ]
    if report.left_out:
        rows = [_reason_row(each) for each in report.left_out]
        lines.append(table(("left out because", "count", "such as"), rows, indent="  "))
    else:
        lines.append("left out   nothing")
    if report.remarks:
        rows = [_reason_row(each) for each in report.remarks]
        lines.append(table(("taken, but", "count", "such as"), rows, indent="  "))
    if report.unfinished_removed:
        lines.append(f"cleaned    {report.unfinished_removed} unfinished imports of this source")
    return "\n".join(lines)


def _reason_row(each: LeftOut) -> tuple[str, int, str]:
    return each.reason.replace("_", " "), each.entries, ", ".join(each.examples[:2])[:70]


def _sources_text(result: Sources) -> str:
    rows = [
        (
            row.name,
            row.version[:8],
            row.files,
            human_bytes(row.content_bytes),
            short(row.manifest_root),
            row.imported_by,
        )
        for row in result.sources
    ]
    return table(("name", "version", "files", "size", "manifest", "imported by"), rows)


def _one_text(result: SourceLineage) -> str:
    (row,) = result.sources
    left_out = ", ".join(f"{count} {reason}" for reason, count in row.left_out.items()) or "nothing"
    text = pairs(
        [
            ("source", row.name),
            ("version", row.version),
            ("manifest", row.manifest_root),
            ("key", row.kek),
            ("taken", f"{row.files:,} files, {human_bytes(row.content_bytes)}"),
            ("left out", left_out),
            ("imported", f"{day(row.imported_s)} by {row.imported_by}"),
            ("runs", ", ".join(result.runs) or "none"),
        ]
    )
    if result.reviews:
        asked = [
            (each.id, each.purpose, each.state, each.requested_by, each.decided_by or "-")
            for each in result.reviews
        ]
        text += "\n" + table(("review", "purpose", "state", "asked by", "decided by"), asked, indent="  ")
    if result.datasets:
        made = [
            (
                each.name,
                each.version[:8],
                short(each.root),
                each.state,
                each.review,
                short(each.recipe_digest),
            )
            for each in result.datasets
        ]
        header = ("dataset", "version", "root", "state", "review", "recipe")
        text += "\n" + table(header, made, indent="  ")
    return text


@command("import", needs=Deed.SOURCE_IMPORT, text=import_text)
@click.argument("name")
@click.argument("place")
@click.option("--form", type=click.Choice([form.value for form in Form]), help="How PLACE holds its data.")
@click.option("--settings", type=click.Path(path_type=Path), help="A TOML file with import settings.")
@click.argument("overrides", nargs=-1)
def import_(
    house: House,
    name: str,
    place: str,
    form: str | None,
    settings: Path | None,
    overrides: tuple[str, ...],
) -> ImportReport:
    """Bring what is in PLACE into quarantine as source NAME: a folder, an archive or table, or a URL such as
    s3://bucket/prefix. OVERRIDES are settings such as 'include=["*.md"]' and text_column=body."""
    layers: list[Layer] = [] if settings is None else [read_layer(settings)]
    if form is not None:
        overrides = (*overrides, f'form="{form}"')
    spec = load(ImportSpec, layers, overrides).value
    return import_source(
        name,
        place,
        spec,
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
        clock=house.clock,
        locks=house.home.locks_dir,
    )


@click.group()
def source() -> None:
    """What has been imported."""


@command("ls", needs=Deed.LOOK, text=_sources_text)
def ls(house: House) -> Sources:
    """Every source version, newest last."""
    return Sources(tuple(_row(record) for record in house.ledger.catalogue.sources()))


@command("show", needs=Deed.LOOK, text=_one_text)
@click.argument("name", metavar="NAME[@VERSION]")
def show(house: House, name: str) -> SourceLineage:
    """One source: what was taken, and the reviews, datasets and runs that follow from it.

    NAME is its newest version; NAME@ and the beginning of a version or manifest root names another one.
    """
    from stoker.intake.life import find_source, standing_of

    catalogue, now_s = house.ledger.catalogue, house.clock.now_s()
    record = find_source(catalogue, name)
    datasets = catalogue.datasets_of_source(record.name, record.version)
    reviews = [each for each in catalogue.reviews(record.name) if each.source_version == record.version]
    runs = [run.id for each in datasets for run in catalogue.runs_of_dataset(each.root)]
    return SourceLineage(
        (_row(record),),
        tuple(
            AskedOfIt(each.id, each.purpose, each.state, each.requested_by, each.decided_by)
            for each in reviews
        ),
        tuple(
            MadeOfIt(
                each.name,
                each.version,
                each.root,
                standing_of(each, now_s),
                each.review,
                each.recipe_digest,
            )
            for each in datasets
        ),
        tuple(dict.fromkeys(runs)),
    )


source.add_command(ls)
source.add_command(show)
