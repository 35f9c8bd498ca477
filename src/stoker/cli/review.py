"""`stoker review`: scan a source, ask for its use, decide, revoke."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, human_bytes, pairs, short, table
from stoker.core.config import load, read_layer
from stoker.core.ids import ReviewId
from stoker.intake.review import decide_review, request_review, revoke_review
from stoker.intake.scan_report import ScanReport, examples_by_kind, read_report, scan_and_seal
from stoker.ledger.records import ReviewRecord
from stoker.spec.recipe import PolicySpec, RecipeSpec

_DAY_S = 86_400.0
_SHOWN_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """One review. `request_digest` is what the decider signs; times are seconds since the Unix epoch."""

    id: str
    source: str
    source_version: str
    manifest_root: str
    scan_digest: str
    policy_digest: str
    purpose: str
    requested_by: str
    expires_s: float
    request_digest: str
    state: str
    decided_by: str | None
    decided_s: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Reviews:
    """The reviews concerned, oldest first."""

    kind: ClassVar[str] = "reviews"
    version: ClassVar[int] = 1
    reviews: tuple[ReviewRow, ...]


def _row(review: ReviewRecord) -> ReviewRow:
    return ReviewRow(
        review.id,
        review.source,
        review.source_version,
        review.manifest_root,
        review.scan_digest,
        review.policy_digest,
        review.purpose,
        review.requested_by,
        review.expires_s,
        review.request_digest,
        review.state,
        review.decided_by,
        review.decided_s,
        review.reason,
    )


def _list_text(result: Reviews) -> str:
    rows = [
        (
            row.id,
            row.source,
            row.purpose,
            row.state,
            row.requested_by,
            row.decided_by or "-",
            day(row.expires_s),
        )
        for row in result.reviews
    ]
    return table(("review", "source", "purpose", "state", "requested by", "decided by", "until"), rows)


def review_text(result: Reviews) -> str:
    """One review in full."""
    (row,) = result.reviews
    return pairs(
        [
            ("review", row.id),
            (
                "source",
                f"{row.source}, version {row.source_version[:8]}, manifest {short(row.manifest_root)}",
            ),
            ("purpose", row.purpose),
            ("state", row.state),
            ("requested by", row.requested_by),
            ("decided by", f"{row.decided_by} at {day(row.decided_s)}" if row.decided_by else "-"),
            ("reason", row.reason or "-"),
            ("in force until", day(row.expires_s)),
            ("request digest", row.request_digest),
        ]
    )


def scan_text(report: ScanReport) -> str:
    """Counts by kind, and a few redacted examples of each with file and offset."""
    examples = dict(examples_by_kind(report))
    rows = [(kind, count, report.files_with.get(kind, 0)) for kind, count in report.counts.items()]
    media = {"image": "pictures", "audio": "clips"}
    unseen = " and ".join(f"{count:,} {media[kind]}" for kind, count in report.not_looked_into.items())
    lines = [
        f"scanned every byte of {report.files - sum(report.not_looked_into.values()):,} files, "
        f"{human_bytes(report.content_bytes)} in all",
        *([f"NOT LOOKED INTO: {unseen}; only their names were scanned"] if unseen else []),
        table(("kind", "found", "in files"), rows, indent="  "),
        "examples, with what was found masked",
    ]
    lines += [
        f"  {kind:<16}{each.file} at byte {each.offset:,}: {each.text.strip()[:60]}"
        for kind, found in examples.items()
        for each in found[:_SHOWN_EXAMPLES]
    ]
    lines.append(f"report digest {report.digest}")
    return "\n".join(lines)


@click.group()
def review() -> None:
    """Scan a source; request, decide and revoke its use."""


@command("scan", needs=Deed.REVIEW_SCAN, text=scan_text)
@click.argument("source")
def scan(house: House, source: str) -> ScanReport:
    """Scan every byte of the newest version of SOURCE for personal and secret data."""
    return scan_and_seal(
        house.ledger.catalogue.latest_source(source),
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
    )


@command("request", needs=Deed.REVIEW_REQUEST, text=review_text)
@click.argument("source")
@click.option("--purpose", required=True, help="What the source is to be used for, as a name.")
@click.option("--days", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="Take the redaction policy of this recipe file."
)
def request(house: House, source: str, purpose: str, days: float, recipe: Path | None) -> Reviews:
    """Ask for leave to use SOURCE. The scan must have been made: its digest is part of the request."""
    policy = PolicySpec() if recipe is None else load(RecipeSpec, [read_layer(recipe)]).value.policy
    record = house.ledger.catalogue.latest_source(source)
    scanned = read_report(record, backend=house.backend, store=house.store)
    asked = request_review(
        record,
        scanned.digest,
        policy,
        purpose=purpose,
        requested_by=house.actor,
        valid_s=days * _DAY_S,
        ledger=house.ledger,
        clock=house.clock,
    )
    return Reviews((_row(asked),))


def _decide(house: House, review_id: str, reason: str, *, approve: bool) -> Reviews:
    decided = decide_review(
        ReviewId(review_id),
        approve=approve,
        reason=reason,
        decided_by=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    return Reviews((_row(decided),))


@command("approve", needs=Deed.REVIEW_DECIDE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@click.option("--reason", default="", help="Why, for the record.")
def approve(house: House, review_id: str, reason: str) -> Reviews:
    """Allow what REVIEW asks for, signed with your key. Refused to the one who asked."""
    return _decide(house, review_id, reason, approve=True)


@command("deny", needs=Deed.REVIEW_DECIDE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@click.option("--reason", default="", help="Why, for the record.")
def deny(house: House, review_id: str, reason: str) -> Reviews:
    """Refuse what REVIEW asks for, signed with your key."""
    return _decide(house, review_id, reason, approve=False)


@command("revoke", needs=Deed.REVIEW_REVOKE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@click.option("--reason", default="", help="Why, for the record.")
def revoke(house: House, review_id: str, reason: str) -> Reviews:
    """Take back an approval, or withdraw a request."""
    revoked = revoke_review(
        ReviewId(review_id),
        reason=reason,
        revoked_by=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    return Reviews((_row(revoked),))


@command("show", needs=Deed.LOOK, text=review_text)
@click.argument("review_id", metavar="REVIEW")
def show(house: House, review_id: str) -> Reviews:
    """One review in full."""
    return Reviews((_row(house.ledger.catalogue.review(ReviewId(review_id))),))


@command("ls", needs=Deed.LOOK, text=_list_text)
def ls(house: House) -> Reviews:
    """Every review, oldest first."""
    return Reviews(tuple(_row(each) for each in house.ledger.catalogue.reviews()))


for each in (scan, request, approve, deny, revoke, show, ls):
    review.add_command(each)
