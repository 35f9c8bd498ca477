"""`stoker review scan` and what its report says to people. See docs/design/measured.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import human_bytes, table
from stoker.intake.permission import record_view
from stoker.intake.proportion import Share
from stoker.intake.scan_report import (
    Measures,
    ScanReport,
    examples_by_kind,
    read_report,
    scan_and_seal,
)

_SHOWN_EXAMPLES = 3
_MEDIA = {"image": "pictures", "audio": "clips"}
DEFAULT_CANARIES = 200
DEFAULT_SAMPLE = 400


def scan_text(report: ScanReport) -> str:
    """Counts by kind, masked examples, what was measured with its intervals, and what is not covered."""
    texts = report.files - sum(report.not_looked_into.values())
    unseen = " and ".join(f"{count:,} {_MEDIA[kind]}" for kind, count in report.not_looked_into.items())
    rows = [
        (kind, count, report.files_with.get(kind, 0), _recall(report.recall.get(kind)))
        for kind, count in report.counts.items()
    ]
    lines = [
        f"scanned every byte of {texts:,} files, {human_bytes(report.content_bytes)} in all",
        *(
            [f"  {report.duplicates:,} of them are the same as another; scanned once"]
            if report.duplicates
            else []
        ),
        *([f"NOT LOOKED INTO: {unseen}; only their names and metadata were scanned"] if unseen else []),
        *(
            f"HELD BACK: {count:,} texts, a recogniser {why.replace('_', ' ')} on them"
            for why, count in report.quarantined.items()
        ),
        table(("kind", "found", "in files", "recall of canaries, 95 % interval"), rows, indent="  "),
        *_measured(report),
        *(["examples, with what was found masked"] if report.examples else []),
    ]
    lines += [
        f"  {kind:<16}{each.file} at byte {each.offset:,}: {each.text.strip()[:60]}"
        for kind, found in examples_by_kind(report)
        for each in found[:_SHOWN_EXAMPLES]
    ]
    lines += [f"  held back       {each.file}: {each.why}" for each in report.held_back[:_SHOWN_EXAMPLES]]
    if report.not_covered:
        lines += ["not covered", *(f"  {sentence}" for sentence in report.not_covered)]
    if report.examples or not any(report.counts.values()):
        lines.append(f"report digest {report.digest}")
    else:
        lines.append(f"examples are for reviewers: stoker review examples {report.source}")
    return "\n".join(lines)


def _recall(found: Share | None) -> str:
    if found is None:
        return "-"
    return f"{found.value:.3f}  ({found.low:.3f} to {found.high:.3f}, {found.found:,} of {found.of:,})"


def _measured(report: ScanReport) -> list[str]:
    lines = []
    for group, shares in report.recall_by.items():
        lines.append(
            f"recall by {group}: " + ", ".join(f"{name} {each.value:.3f}" for name, each in shares.items())
        )
    for media, seen in report.media.items():
        parts = [*_counts(seen.with_metadata)]
        if seen.looked_for_faces:
            parts.append(f"{seen.faces:,} faces in {seen.with_faces:,} of {seen.looked_for_faces:,}")
        lines.append(f"{seen.files:,} {_MEDIA[media]}: " + (", ".join(parts) or "no metadata"))
        if seen.findings_in_metadata:
            lines.append("  found in their metadata: " + ", ".join(_counts(seen.findings_in_metadata)))
    if report.names is not None:
        names = report.names
        lines.append(
            f"name model {names.model}, on {names.looked_into:,} of {names.spans:,} pieces near hits: "
            + (", ".join(_counts(names.found)) or "nothing more")
        )
    if report.left is not None:
        left = report.left.windows_with
        lines.append(
            f"audit sample of {left.of:,} of {report.left.of_windows:,} windows of "
            f"{report.left.window_bytes:,} bytes: {left.found:,} hold what only the model sees; of all "
            f"windows {left.low:.1%} to {left.high:.1%} do, with 95 % confidence"
        )
        lines.append(
            "  by kind: "
            + ", ".join(f"{name} at most {each.high:.1%}" for name, each in report.left.by_kind.items())
        )
    return lines


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count]


@command("scan", needs=Deed.REVIEW_SCAN, text=scan_text)
@click.argument("source")
@click.option(
    "--canaries",
    type=click.IntRange(0, 1_000_000),
    default=DEFAULT_CANARIES,
    show_default=True,
    help="Plant so many identities in copies of the source and count which are found.",
)
@click.option("--names", is_flag=True, help="Run the name model near hits and on an audit sample.")
@click.option(
    "--sample",
    type=click.IntRange(0, 1_000_000),
    help=f"How many windows the audit sample has.  [default: {DEFAULT_SAMPLE} with --names, else none]",
)
@click.option("--faces", is_flag=True, help="Look for faces in pictures.")
def scan(
    house: House, source: str, canaries: int, names: bool, sample: int | None, faces: bool
) -> ScanReport:
    """Scan every byte of the newest version of SOURCE for personal and secret data.

    Examples of what was found are not shown here: they are for reviewers, see `stoker review examples`.
    """
    report = scan_and_seal(
        house.ledger.catalogue.latest_source(source),
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
        measures=Measures(
            names=names or bool(sample),
            sample=(DEFAULT_SAMPLE if names else 0) if sample is None else sample,
            canaries=canaries,
            faces=faces,
        ),
    )
    return replace(report, examples=())


@command("examples", needs=Deed.REVIEW_EXAMPLES, text=scan_text)
@click.argument("source")
def examples(house: House, source: str) -> ScanReport:
    """The scan report of SOURCE with lines around what was found, for reviewers; recorded in the log."""
    record = house.ledger.catalogue.latest_source(source)
    report = read_report(record, backend=house.backend, store=house.store)
    record_view(house.ledger, house.actor, record, report.digest)
    return report
