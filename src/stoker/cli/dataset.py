"""`stoker dataset`: what has been prepared, from what, who used it, and what may be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.main import Lazy, LazyGroup
from stoker.cli.table import day, human_bytes, pairs, short, table
from stoker.core.canonical import JsonValue
from stoker.core.errors import StokerError
from stoker.intake.life import DatasetUse, Standing, Uses, find_dataset, standing_of
from stoker.ledger.records import DatasetRecord
from stoker.store.superblock import Superblock


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One version of a dataset and where it comes from. Times are seconds since the Unix epoch.

    `state` is `live`, `expired`, `destroyed` or `collected`; `samples` and `bytes` are None where the record
    does not say them.
    """

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
    samples: int | None
    bytes: int | None
    prepared_by: str
    prepared_s: float
    expires_s: float
    last_used_s: float | None
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Datasets:
    """Dataset versions, newest last. `hidden` counts collected ones that were left out."""

    kind: ClassVar[str] = "datasets"
    version: ClassVar[int] = 1
    datasets: tuple[DatasetRow, ...]
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The source version that a dataset was prepared from."""

    name: str
    version: str
    root: str
    files: int
    content_bytes: int
    imported_by: str
    imported_s: float


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """The review that a dataset was prepared under."""

    id: str
    purpose: str
    state: str
    requested_by: str
    decided_by: str | None
    expires_s: float


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """One split."""

    name: str
    samples: int
    shards: int


@dataclass(frozen=True, slots=True)
class DatasetLineage:
    """One dataset version in full: back to source, review and recipe, forward to every use.

    `datasets` holds the one row. `splits` and `schema` are empty when its objects are gone, or when its
    manifest could not be opened, for `manifest_problem`.
    """

    kind: ClassVar[str] = "dataset"
    version: ClassVar[int] = 1

    datasets: tuple[DatasetRow, ...]
    source: SourceFacts | None
    review: ReviewFacts
    splits: tuple[SplitFacts, ...]
    schema: Mapping[str, JsonValue]
    uses: tuple[DatasetUse, ...]
    manifest_problem: str = ""


def dataset_row(
    record: DatasetRecord, uses: Uses, now_s: float, object_bytes: int | None = None
) -> DatasetRow:
    """The record with what follows from it; `object_bytes` is what its manifest says, if it was opened."""
    parts = [part.get("samples") for part in record.figures.values() if isinstance(part, Mapping)]
    counts = [count for count in parts if isinstance(count, int)]
    stored = record.figures.get("object_bytes")
    return DatasetRow(
        record.name,
        record.version,
        record.root,
        standing_of(record, now_s),
        record.kek,
        record.source,
        record.source_version,
        record.source_root,
        record.review,
        record.recipe_digest,
        record.recipe,
        record.figures,
        sum(counts) if counts else None,
        stored if isinstance(stored, int) else object_bytes,
        record.prepared_by,
        record.prepared_s,
        record.expires_s,
        uses.last_s(record),
        tuple(use.name for use in uses.of(record) if use.what == "run"),
    )


def shown(value: JsonValue) -> str:
    """A figure for people: counts with separators, parts of a mapping by name."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _list_text(result: Datasets) -> str:
    rows = [
        (
            row.name,
            row.version[:8],
            short(row.root),
            row.state,
            row.source,
            "-" if row.samples is None else f"{row.samples:,}",
            "-" if row.bytes is None else human_bytes(row.bytes),
            day(row.expires_s),
            day(row.last_used_s),
            len(row.runs),
        )
        for row in result.datasets
    ]
    header = ("name", "version", "root", "state", "source", "samples", "size", "expires", "last used", "runs")
    note = f"\n{result.hidden} collected ones are not shown; --all shows them." if result.hidden else ""
    return table(header, rows) + note


def lineage_text(result: DatasetLineage) -> str:
    """One dataset in full."""
    (row,), source, review = result.datasets, result.source, result.review
    lines: list[tuple[str, object]] = [
        ("dataset", row.name),
        ("version", row.version),
        ("root", row.root),
        ("state", row.state),
        ("key", row.kek),
        ("from", f"source {row.source}, version {row.source_version[:8]}, manifest {short(row.source_root)}"),
    ]
    if source is not None:
        lines.append(
            (
                "source",
                f"{source.files:,} files, {human_bytes(source.content_bytes)}, imported "
                f"{day(source.imported_s)} by {source.imported_by}",
            )
        )
    lines += [
        (
            "review",
            f"{review.id} for {review.purpose}: {review.state}, asked by {review.requested_by}, decided by "
            f"{review.decided_by or '-'}, until {day(review.expires_s)}",
        ),
        ("recipe", row.recipe_digest),
        ("recipe sets", _recipe_text(row.recipe)),
        ("prepared", f"{day(row.prepared_s)} by {row.prepared_by}"),
        ("expires", day(row.expires_s)),
        ("last used", day(row.last_used_s)),
        ("stored", "-" if row.bytes is None else human_bytes(row.bytes)),
        *((name.replace("_", " "), shown(value)) for name, value in row.figures.items()),
        *([("manifest", f"not opened: {result.manifest_problem}")] if result.manifest_problem else []),
        ("splits", _splits_text(result.splits)),
        ("schema", shown(result.schema) if result.schema else "-"),
        ("runs", ", ".join(row.runs) or "none"),
    ]
    return pairs(lines) + _uses_text(result.uses)


def _recipe_text(recipe: Mapping[str, JsonValue]) -> str:
    """What differs from a recipe that says nothing."""
    from stoker.core.result import plain
    from stoker.intake.difference import changes
    from stoker.spec.recipe import RecipeSpec

    said = [each for each in changes(plain(RecipeSpec()), recipe) if each.after is not None]
    return ", ".join(f"{each.field} {shown(each.after)}" for each in said) or "nothing: all by default"


def _splits_text(splits: Sequence[SplitFacts]) -> str:
    return ", ".join(f"{each.name} {each.samples:,} in {each.shards:,} shards" for each in splits) or "-"


def _uses_text(uses: Sequence[DatasetUse]) -> str:
    if not uses:
        return ""
    rows = [(use.what, use.name, use.by, day(use.began_s), day(use.last_s), use.outcome) for use in uses]
    return "\nuses\n" + table(("what", "which", "by", "began", "last sign", "outcome"), rows, indent="  ")


dataset = LazyGroup(
    "dataset",
    help="What has been prepared, from what, and until when.",
    context_settings={"help_option_names": ["-h", "--help"]},
    members={
        "ls": Lazy("stoker.cli.dataset:ls", "Every dataset version: state, samples, size, expiry, last use."),
        "show": Lazy("stoker.cli.dataset:show", "One dataset with its lineage and every use of it."),
        "sample": Lazy("stoker.cli.dataset_look:sample", "Show a few samples; a use, and recorded."),
        "diff": Lazy("stoker.cli.dataset_look:diff", "What differs from one version to another."),
        "export": Lazy("stoker.cli.dataset_look:export", "Write it as Parquet, with the right to."),
        "expire": Lazy("stoker.cli.dataset_life:expire", "Bring its expiry forward, never back."),
        "gc": Lazy("stoker.cli.dataset_life:gc", "Remove what nobody can open any more."),
    },
)


@command("ls", needs=Deed.LOOK, text=_list_text)
@click.option("--all", "everything", is_flag=True, help="Show collected ones too, whose objects are gone.")
def ls(house: House, everything: bool) -> Datasets:
    """Every dataset version, newest last: state, samples, size, expiry, last use and runs."""
    from stoker.fleet.liveness import HomeWatch

    uses, now_s = Uses(house.ledger, HomeWatch(house.home)), house.clock.now_s()
    rows = [dataset_row(record, uses, now_s) for record in house.ledger.catalogue.datasets()]
    taken = [row for row in rows if everything or row.state != Standing.COLLECTED]
    return Datasets(tuple(taken), len(rows) - len(taken))


@command("show", needs=Deed.LOOK, text=lineage_text)
@click.argument("name", metavar="NAME[@VERSION]")
def show(house: House, name: str) -> DatasetLineage:
    """One dataset with its lineage: source, review and recipe, and every run and other use of it.

    NAME is its newest version; NAME@ and the beginning of a version or root names another one.
    """
    from stoker.fleet.liveness import HomeWatch
    from stoker.intake.difference import layout_of
    from stoker.intake.permission import source_of

    ledger = house.ledger
    record = find_dataset(ledger.catalogue, name)
    uses = Uses(ledger, HomeWatch(house.home))
    block: Superblock | None = None
    schema: Mapping[str, JsonValue] = {}
    problem = ""
    try:
        block, schema = layout_of(record, ledger=ledger, backend=house.backend, store=house.store)
    except StokerError as error:  # the ledger's part is known all the same
        problem = error.message
    row = dataset_row(record, uses, house.clock.now_s(), None if block is None else block.object_bytes)
    source, review = source_of(ledger, record), ledger.catalogue.review(record.review)
    return DatasetLineage(
        datasets=(row,),
        source=None
        if source is None
        else SourceFacts(
            source.name,
            source.version,
            source.manifest_root,
            source.files,
            source.content_bytes,
            source.imported_by,
            source.imported_s,
        ),
        review=ReviewFacts(
            review.id,
            review.purpose,
            review.state,
            review.requested_by,
            review.decided_by,
            review.expires_s,
        ),
        splits=()
        if block is None
        else tuple(SplitFacts(each.name, each.samples, each.shards) for each in block.splits),
        schema=schema,
        uses=uses.of(record),
        manifest_problem=problem,
    )
