"""`stoker verify`: every promise, how it was checked just now, and whether it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.main import printable
from stoker.cli.table import human_seconds
from stoker.core.atomic import write_atomic
from stoker.core.clock import iso_utc
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.core.result import envelope
from stoker.promises.promise import PromiseReport, Standing, VerifyReport

if TYPE_CHECKING:
    from stoker.promises.search import Remembered

_SIGNS = {Standing.KEPT: "kept", Standing.NOT_KEPT: "NOT KEPT", Standing.UNTRIED: "untried"}


def verify_text(report: VerifyReport) -> str:
    """The report for people: a line a promise, and under it a line for each thing tried."""
    lines: list[str] = []
    for each in report.promises:
        lines += _promise_lines(each)
    lines.append(
        f"{report.kept} of {len(report.promises)} promises kept, checked in {human_seconds(report.seconds)}"
    )
    return "\n".join(lines)


def _promise_lines(report: PromiseReport) -> list[str]:
    lines = [f"{report.number}  {_SIGNS[report.standing]:<9} {report.promise}"]
    lines += [
        f"     {'ok' if check.held else 'NO':<3} {printable(check.tried)}: {printable(check.seen)}"
        for check in report.checks
    ]
    if report.missing:
        lines.append(f"     --  {printable(report.missing)}")
    return lines


def verdict(report: VerifyReport) -> int:
    """Exit code 1 when a promise is not kept."""
    broken = any(each.standing is Standing.NOT_KEPT for each in report.promises)
    return EXIT_FINDING if broken else EXIT_DONE


FORGET_ROUNDS: Final = 60
"""A watch reads unchanged files outside the home again after this many rounds."""


def round_text(report: VerifyReport, at_s: float) -> str:
    """One round of a watch as a line, and a line for each promise that is not kept."""
    kept = f"{report.kept} of {len(report.promises)} promises kept"
    line = f"{iso_utc(at_s)}  {kept}, {human_seconds(report.seconds)}"
    broken = [each for each in report.promises if each.standing is Standing.NOT_KEPT]
    failed = [
        f"   {each.number} NOT KEPT: {printable(check.tried)}: {printable(check.seen)}"
        for each in broken
        for check in each.checks
        if not check.held
    ]
    missing = [f"   {each.number} NOT KEPT: {printable(each.missing)}" for each in broken if each.missing]
    return "\n".join([line, *failed, *missing])


@command(
    "verify",
    needs=Deed.LOOK,
    text=verify_text,
    exit_code=verdict,
)
@click.option(
    "--watch", is_flag=True, help="Check again and again until ended, a line or JSON object a round."
)
@click.option(
    "--every",
    type=click.FloatRange(1, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds between rounds.",
)
@click.option("--rounds", type=click.IntRange(1), help="End a watch after this many rounds.")
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also keep the newest result in FILE, in Prometheus' text format.",
)
def verify(house: House, watch: bool, every: float, rounds: int | None, metrics: Path | None) -> VerifyReport:
    """Check every promise now; exit code 1 when one is not kept."""
    from stoker.promises.metrics import prometheus
    from stoker.promises.search import Remembered

    if metrics is not None and not metrics.absolute().parent.is_dir():
        raise click.UsageError(f"--metrics {metrics}: there is no such folder.")
    remembered = Remembered() if watch else None
    last = (rounds or 0) if watch else 1
    done = 0
    while True:
        report = _check(house, remembered)
        done += 1
        if done != last:
            click.echo(envelope(report) if house.as_json else round_text(report, house.clock.now_s()))
        if metrics is not None:
            write_atomic(metrics, prometheus(report, house.clock.now_s()).encode(), mode=0o644)
        if done == last:
            return report
        if remembered is not None and done % FORGET_ROUNDS == 0:
            remembered.forget()
        house.clock.sleep(max(0.0, every - report.seconds))


def _check(house: House, remembered: Remembered | None) -> VerifyReport:
    from stoker.promises.verify import verify_promises

    return verify_promises(
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        cache=house.cache,
        clock=house.clock,
        progress=house.progress,
        remembered=remembered,
    )
