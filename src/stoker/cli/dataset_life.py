"""`stoker dataset expire` and `stoker dataset gc`: an earlier end, and what is then cleared away."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, human_bytes, pairs, table
from stoker.intake.garbage import GRACE_DAYS, GarbageCollector, GarbageReport
from stoker.intake.life import ExpireReport, expire_dataset, find_dataset

_DAY_S = 86_400.0


_MOMENTS = click.DateTime(
    ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
)


def expire_text(report: ExpireReport) -> str:
    """When it ends now, and what that does and does not do."""
    record = report.record
    would = "would expire" if report.dry_run else "expires"
    return pairs(
        [
            ("dataset", f"{record.name}, version {record.version[:8]}"),
            ("key", record.kek),
            (would, f"{day(report.expires_s)}, not at {day(report.before_s)}"),
            ("then", "its key opens nothing, runs on it end, feeds stop; gc may clear it away later"),
            ("note", f"this destroys nothing; for that, two identities: stoker key destroy {record.kek}"),
        ]
    )


def gc_text(report: GarbageReport) -> str:
    """What was freed, what was kept, and why."""
    would = "would be freed" if report.dry_run else "freed"
    lines = []
    if report.collected:
        rows = [
            (each.name, each.version[:8], each.because, each.objects, human_bytes(each.object_bytes))
            for each in report.collected
        ]
        lines.append(table(("name", "version", "because", "objects", "size"), rows, indent="  "))
    lines.append(f"{would}  {report.objects:,} objects, {human_bytes(report.object_bytes)}")
    if report.kept:
        kept = [(each.name, each.version[:8], each.why) for each in report.kept]
        lines.append(table(("kept", "version", "because"), kept, indent="  "))
    return "\n".join(lines)


@command("expire", needs=Deed.DATASET_EXPIRE, text=expire_text)
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--at", "at", type=_MOMENTS, help="When, such as 2026-12-24T18:00Z; UTC unless it says so.")
@click.option("--now", "at_once", is_flag=True, help="At once.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def expire(house: House, name: str, at: datetime | None, at_once: bool, dry_run: bool) -> ExpireReport:
    """Bring the expiry of a dataset, and of its key, forward; never back.

    Whoever prepared it, a reviewer or an admin may. This is not destruction, which takes two identities.
    """
    if (at is None) != at_once:
        raise click.UsageError("Say when: either --at TIME or --now.")
    return expire_dataset(
        find_dataset(house.ledger.catalogue, name),
        house.clock.now_s() if at is None else _utc(at).timestamp(),
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
        dry_run=dry_run,
    )


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


@command("gc", needs=Deed.DATASET_COLLECT, text=gc_text)
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(0, 3650),
    default=GRACE_DAYS,
    show_default=True,
    help="Days since it expired, or since a preparation was begun that did not end.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def gc(house: House, days: float, dry_run: bool) -> GarbageReport:
    """Remove what nobody can open any more: never what a live run reads.

    That is the objects, and this node's cached copies, of datasets whose key is destroyed or that expired
    some days ago, and of preparations that did not end. Records and lineage stay.
    """
    from stoker.fleet.liveness import HomeWatch

    return GarbageCollector(
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        cache=house.cache,
        watch=HomeWatch(house.home),
        clock=house.clock,
        locks=house.home.locks_dir,
        grace_s=days * _DAY_S,
        dry_run=dry_run,
    ).run(house.progress)
