"""`stoker dataset sample`, `diff` and `export`: looking into a dataset, comparing two, taking one out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.main import printable
from stoker.cli.table import human_bytes, pairs, short, table
from stoker.intake.difference import Change, DifferenceReport, compare_datasets
from stoker.intake.export import ExportPlan, ExportReport, export_dataset, read_key_file
from stoker.intake.life import find_dataset
from stoker.intake.sampling import MAX_CHARACTERS, MAX_SAMPLES, SampleReport, ShownField, sample_dataset


def sample_text(report: SampleReport) -> str:
    """The rows, one field after the other; control characters as escapes."""
    lines = [
        pairs(
            [
                ("dataset", f"{report.name}, version {report.dataset_version[:8]}"),
                ("split", f"{report.split}, {report.samples:,} samples"),
                ("seed", f"{report.seed} shows the same ones again"),
                ("review", report.review),
            ]
        )
    ]
    for row in report.rows:
        lines.append(f"sample {row.index:,}")
        for field in row.fields:
            lines += _field_lines(field)
    return "\n".join(lines)


def _field_lines(field: ShownField) -> list[str]:
    about = f"{field.media or field.kind}, {field.values:,} values, {human_bytes(field.bytes)}"
    lines = [f"  {printable(field.name)} ({about})"]
    if field.text is not None:
        lines += [f"  | {line}" for line in printable(field.text).split("\n")]
    elif field.numbers:
        more = " …" if field.values > len(field.numbers) else ""
        lines.append("  | " + " ".join(f"{number:g}" for number in field.numbers) + more)
    return lines


def diff_text(report: DifferenceReport) -> str:
    """What differs, part by part."""
    lines = [
        pairs(
            [
                (side, f"{each.name}, version {each.version[:8]}, root {short(each.root)}, {each.state}")
                for side, each in (("from", report.before), ("to", report.after))
            ]
        )
    ]
    parts = (
        ("source", report.source),
        ("recipe", report.recipe),
        ("review", report.review),
        ("figures", report.figures),
        ("splits", report.splits),
        ("schema", report.schema),
    )
    lines += [_changes_text(name, changes) for name, changes in parts if changes]
    if report.files is not None:
        files = report.files
        lines.append(
            f"files  {files.added:,} added, {files.removed:,} removed, {files.changed:,} changed, "
            f"{files.same:,} the same"
        )
        for sign, paths in (("+", files.added_paths), ("-", files.removed_paths), ("~", files.changed_paths)):
            lines += [f"  {sign} {printable(path)}" for path in paths]
    else:
        lines.append(printable(f"files  not compared: {report.files_why}"))
    if report.same:
        lines.append("nothing differs")
    return "\n".join(lines)


def _changes_text(name: str, changes: tuple[Change, ...]) -> str:
    rows = [(each.field, _value(each.before), _value(each.after)) for each in changes]
    return f"{name}\n" + table(("field", "from", "to"), rows, indent="  ")


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def export_text(report: ExportReport) -> str:
    """Where it lies, what is in it, and what that means."""
    splits = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
    rows: list[tuple[str, object]] = [
        ("dataset", f"{report.name}, version {report.dataset_version[:8]}, root {short(report.root)}"),
        ("review", report.review),
        ("would go to" if report.dry_run else "folder", report.folder),
        ("samples", f"{report.samples:,}: {splits}"),
        (
            "encrypted",
            "yes, with your key" if report.encrypted else "no: whoever reads the files has the data",
        ),
    ]
    if not report.dry_run:
        size = human_bytes(sum(each.bytes for each in report.files))
        rows += [("files", f"{len(report.files)}, {size}"), ("digest", report.digest)]
    rows.append(("note", "the source's canary is in the training split, so that a copy can be recognised"))
    return pairs(rows)


@command("sample", needs=Deed.DATASET_SAMPLE, text=sample_text)
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--split", help="The split to look into; the first one when not given.")
@click.option("--count", type=click.IntRange(1, MAX_SAMPLES), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Show those that this seed chooses.")
@click.option("--purpose", help="The purpose to look for; the one it was reviewed for when not given.")
@click.option(
    "--characters",
    type=click.IntRange(1, MAX_CHARACTERS),
    default=1000,
    show_default=True,
    help="Cut texts after so many.",
)
def sample(
    house: House,
    name: str,
    split: str | None,
    count: int,
    seed: int | None,
    purpose: str | None,
    characters: int,
) -> SampleReport:
    """Show a few samples of a dataset, chosen by a keyed permutation. This is a use, and is recorded.

    A researcher, reviewer or admin may, while a review is in force for the purpose.
    """
    return sample_dataset(
        find_dataset(house.ledger.catalogue, name),
        split=split,
        count=count,
        seed=seed,
        purpose=purpose,
        characters=characters,
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        clock=house.clock,
    )


@command("diff", needs=Deed.LOOK, text=diff_text)
@click.argument("before", metavar="A[@VERSION]")
@click.argument("after", metavar="B[@VERSION]")
def diff(house: House, before: str, after: str) -> DifferenceReport:
    """What differs from dataset version A to B: source, recipe, review, figures, splits and schema.

    Which files differ is told to somebody who may look at samples of both; that is recorded.
    """
    catalogue = house.ledger.catalogue
    return compare_datasets(
        find_dataset(catalogue, before),
        find_dataset(catalogue, after),
        actor=None if house.acting is None else house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        clock=house.clock,
    )


@command("export", needs=Deed.DATASET_EXPORT, text=export_text)
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="A folder to make.")
@click.option("--split", "splits", multiple=True, help="A split to export; repeatable. All when not given.")
@click.option("--format", "form", type=click.Choice(["parquet"]), default="parquet", show_default=True)
@click.option("--text", is_flag=True, help="Add what tokens say, as a column of text.")
@click.option("--key-file", type=click.Path(path_type=Path), help="Encrypt the files with the AES key in it.")
@click.option("--dry-run", is_flag=True, help="Check everything, and write nothing.")
def export(
    house: House,
    name: str,
    target: Path,
    splits: tuple[str, ...],
    form: str,
    text: bool,
    key_file: Path | None,
    dry_run: bool,
) -> ExportReport:
    """Write a dataset to the new folder TARGET as Parquet, for somebody with the right to.

    That is a researcher or admin with a review for the purpose `export` of the dataset's source, which they
    asked for and somebody else approved. Begin and end are recorded with counts and a digest.
    """
    assert form == "parquet", "click lets nothing else through"
    with ending_as_with_ctrl_c() as go_on:
        return export_dataset(
            find_dataset(house.ledger.catalogue, name),
            ExportPlan(target, splits, text, None if key_file is None else read_key_file(key_file)),
            actor=house.actor,
            ledger=house.ledger,
            backend=house.backend,
            store=house.store,
            clock=house.clock,
            forbidden=(house.home.root,),
            progress=house.progress,
            go_on=go_on,
            dry_run=dry_run,
        )


@contextlib.contextmanager
def ending_as_with_ctrl_c() -> Iterator[Callable[[], None]]:
    """A closed terminal and a polite request to end leave as little behind: what is half written is plain.

    Gives a function that raises KeyboardInterrupt once any of them was told: an exception that is raised
    while a library of C++ calls back into Python may be lost there.
    """
    told = threading.Event()

    def interrupt(*_: object) -> None:
        told.set()
        raise KeyboardInterrupt

    def go_on() -> None:
        if told.is_set():
            raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield go_on
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
