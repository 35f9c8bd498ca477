"""`stoker verify`: every promise, how it was checked just now, and whether it is kept."""

from __future__ import annotations

from stoker.cli.command import Deed, House, command
from stoker.cli.main import printable
from stoker.cli.table import human_seconds
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.promises.promise import PromiseReport, Standing, VerifyReport

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


@command(
    "verify",
    needs=Deed.LOOK,
    text=verify_text,
    exit_code=verdict,
)
def verify(house: House) -> VerifyReport:
    """Check every promise now; exit code 1 when one is not kept."""
    from stoker.promises.verify import verify_promises

    return verify_promises(
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        cache=house.cache,
        clock=house.clock,
        progress=house.progress,
    )
