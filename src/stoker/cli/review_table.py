"""`stoker review table`: how well a source's table hides each of its rows. See docs/design/measured.md."""

from __future__ import annotations

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import pairs, table
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.intake.tabular.anonymity import Column
from stoker.intake.tabular.table_report import TableReport, measure_table


def table_text(report: TableReport) -> str:
    """k, l, and how the classes are spread; no value of the table."""
    below = f"{report.rows_below:,} of {report.rows:,} rows in classes of fewer than {report.least_k}"
    lines = [
        pairs(
            [
                ("source", f"{report.source}, version {report.source_version[:8]}"),
                ("told apart by", ", ".join(report.columns)),
                ("rows", f"{report.rows:,} in {report.classes:,} classes"),
                ("k", f"{report.k} (asked for {report.least_k}); {below}"),
                ("alone", f"{report.single_rows:,} rows are the only one of their class"),
                ("risk", f"at worst 1 in {report.k}, on average {report.mean_risk:.3f}"),
            ]
        ),
        table(("rows in a class", "classes"), list(report.sizes.items()), indent="  "),
    ]
    lines += [
        f"l of {name}: {one.distinct_l} distinct (asked for {report.least_l}), {one.entropy_l:.2f} by "
        f"entropy; {one.rows_below:,} rows in classes below"
        for name, one in report.diversity.items()
    ]
    if report.lacking or report.broken:
        lines.append(f"NOT LOOKED INTO: {report.lacking:,} rows lack a column, {report.broken:,} are no rows")
    lines.append("holds" if report.holds else "DOES NOT HOLD: take columns coarser (name:3, name/10)")
    return "\n".join(lines)


def _exit_code(report: TableReport) -> int:
    return EXIT_DONE if report.holds else EXIT_FINDING


def _columns(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Column, ...]:
    try:
        return tuple(Column.parse(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@command("table", needs=Deed.REVIEW_SCAN, text=table_text, exit_code=_exit_code)
@click.argument("source")
@click.option(
    "--by",
    multiple=True,
    required=True,
    callback=_columns,
    metavar="COLUMN",
    help="A quasi-identifier; name:3 takes its first 3 characters, name/10 bands of 10. Repeat it.",
)
@click.option("--sensitive", multiple=True, metavar="COLUMN", help="A column to be diverse. Repeat it.")
@click.option("--k", "least_k", type=click.IntRange(2), default=5, show_default=True)
@click.option("--l", "least_l", type=click.IntRange(1), default=2, show_default=True)
def table_(
    house: House,
    source: str,
    by: tuple[Column, ...],
    sensitive: tuple[str, ...],
    least_k: int,
    least_l: int,
) -> TableReport:
    """k-anonymity and l-diversity of the rows of SOURCE. Shows counts, never a value."""
    return measure_table(
        house.ledger.catalogue.latest_source(source),
        by,
        sensitive,
        least_k=least_k,
        least_l=least_l,
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
    )
