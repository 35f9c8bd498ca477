"""`stoker export`: a model's way out of the house."""

from __future__ import annotations

from pathlib import Path

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.dataset_look import ending_as_with_ctrl_c
from stoker.cli.release import newest_standing
from stoker.cli.run import require_torch
from stoker.cli.table import human_bytes, pairs, short
from stoker.fleet.model_export import ExportForm, ModelExport, WeightType, export_model


def export_text(report: ModelExport) -> str:
    """Where it lies, where it came from, and what that means."""
    rows: list[tuple[str, object]] = [
        ("run", f"{report.run} ({report.name})"),
        ("checkpoint", f"step {report.step}, record {short(report.checkpoint_digest)}"),
        ("would go to" if report.dry_run else "folder", report.folder),
        ("form", f"{report.form}, weights as {report.dtype}"),
        ("reviews", ", ".join(report.reviews)),
        *(("known by heart", each) for each in report.exposures),
    ]
    if report.released_by is not None:
        rows.append(("released by", f"{report.released_by}, although it is not to be released"))
    if not report.dry_run:
        rows += [
            ("parameters", f"{report.parameters:,}"),
            ("files", f"{len(report.files)}, {human_bytes(report.bytes)}"),
            ("digest", report.digest),
        ]
    return pairs([*rows, ("warning", report.warning)])


@command("export", needs=Deed.RUN_EXPORT, text=export_text)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--out",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder to make, outside the home.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice([each.value for each in ExportForm]),
    default="huggingface",
    show_default=True,
)
@click.option(
    "--dtype",
    type=click.Choice([each.value for each in WeightType]),
    default=WeightType.FLOAT32.value,
    show_default=True,
    help="What weights are written as; they are sealed as float32.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, and write nothing.")
def export(house: House, run_id: str, target: Path, form: str, dtype: str, dry_run: bool) -> ModelExport:
    """Write RUN's model to the new folder OUT, in plain, as others load it: declassify it.

    A researcher or admin may, while reviews of all its data are in force. A model that knows its data by
    heart, or of which nobody measured that, goes only when a reviewer released it. It is recorded.
    """
    require_torch()
    standing = newest_standing(house, run_id)
    with ending_as_with_ctrl_c() as go_on:
        return export_model(
            standing,
            target,
            form=ExportForm(form),
            dtype=WeightType(dtype),
            home=house.home,
            actor=house.actor,
            ledger=house.ledger,
            backend=house.backend,
            store=house.store,
            clock=house.clock,
            progress=house.progress,
            go_on=go_on,
            dry_run=dry_run,
        )
