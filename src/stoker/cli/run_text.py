"""A run's figures as text: the same for `stoker train`, `stoker run show` and the quickstart."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.cli.main import printable
from stoker.cli.table import day, human_bytes, human_seconds, pairs, short, table
from stoker.core.ids import RunId
from stoker.fleet.feed_waits import FeedWaits
from stoker.fleet.goodput import Goodput
from stoker.fleet.measured import EarlyStop, MeasuredFigure
from stoker.fleet.recoveries import Recovery
from stoker.fleet.summary import EvaluationFigure, RunReport, RunSummary
from stoker.fleet.verdict import RunError
from stoker.ledger.records import RunOutcome


def summary_text(summary: RunSummary) -> str:
    """How a run ended, for the one who started it."""
    parts = [training_text(summary), evaluations_text(summary.evaluations), measured_text(summary.measured)]
    parts += [*(each.sentence() for each in summary.exposures), sample_text(summary.sample)]
    return "\n".join(part for part in parts if part)


def training_text(summary: RunSummary) -> str:
    """How a run ended, what failed on the way, and where its time went."""
    rows: list[tuple[str, object]] = [
        ("run", summary.run),
        ("outcome", summary.outcome),
        ("step", f"{summary.last_step} of {summary.steps_planned}"),
        *_early_rows(summary.early_stop),
    ]
    rows += _error_rows(summary.error)
    rows += _go_on_rows(summary.run, summary.outcome)
    if summary.last_checkpoint_step is not None:
        rows.append(("last checkpoint", f"step {summary.last_checkpoint_step}"))
    rows.append(("isolation", f"{summary.isolation.state}: {summary.isolation.reason}"))
    rows.append(("folder", summary.folder))
    parts = [pairs(rows), recoveries_text(summary.recoveries), time_text(summary.goodput)]
    parts.append(feed_text(summary.feed))
    return "\n".join(part for part in parts if part)


def report_text(report: RunReport) -> str:
    """Everything that is known of a run."""
    stands = [point for point in report.steps if point.stands]
    lineage, saved = report.lineage, report.checkpoints
    newest = f", the newest of step {saved[-1].step}" if saved else ""
    rows: list[tuple[str, object]] = [
        ("run", f"{report.run} ({report.name})"),
        ("outcome", f"{report.outcome}, but nothing supervises it" if report.abandoned else report.outcome),
        *_error_rows(report.error),
        *_go_on_rows(report.run, report.outcome, report.abandoned),
        ("started", f"{day(report.started_s)} by {report.started_by}"),
        ("steps", f"{len(stands)} of {report.steps_planned}"),
        *_early_rows(report.early_stop),
        ("parameters", "-" if report.parameters is None else f"{report.parameters:,}"),
        ("checkpoints", f"{len(saved)}, {human_bytes(sum(each.bytes for each in saved))}{newest}"),
        ("dataset", f"{lineage.dataset} {lineage.dataset_version[:8]}, root {short(lineage.dataset_root)}"),
        (
            "from source",
            f"{lineage.source} {lineage.source_version[:8]}, manifest {short(lineage.source_root)}",
        ),
        ("recipe", short(lineage.recipe_digest)),
        (
            "review",
            f"{lineage.review}, asked by {lineage.requested_by}, decided by {lineage.decided_by or '-'}",
        ),
        *(
            (
                "mixed with",
                f"{each.dataset} {each.dataset_version[:8]}, root {short(each.dataset_root)}, "
                f"weight {each.weight:g}, from {each.source}, review {each.review}",
            )
            for each in lineage.mixed_with
        ),
        ("purpose", lineage.purpose),
        *_protection_rows(report),
    ]
    rows += _job_rows(report)
    if report.cut_lines:
        rows.append(("note", f"{report.cut_lines} event lines were cut by a crash and are not counted"))
    parts = [pairs(rows), _losses_text(report), recoveries_text(report.recoveries), time_text(report.goodput)]
    parts += [feed_text(report.feed), f"[ranks]  {report.stragglers.sentence()}"]
    parts += [evaluations_text(report.evaluations), measured_text(report.measured)]
    parts += [*(each.sentence() for each in report.exposures), sample_text(report.sample)]
    return "\n".join(part for part in parts if part)


def _protection_rows(report: RunReport) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("device", printable(report.device))] if report.device else []
    if report.probe is not None:
        probe = report.probe
        when = f"the last of {probe.probes} probes, {human_seconds(probe.at_s)} after the start"
        rows.append(("isolation", f"{probe.state}: {probe.reason} ({when})"))
    return [*rows, *((f"link: {link.name}", f"{link.protection}: {link.known}") for link in report.links)]


def _job_rows(report: RunReport) -> list[tuple[str, object]]:
    """The newest job, and what else happened to jobs than that they ran."""
    if not report.jobs:
        return []
    last = report.jobs[-1]
    at = f" on {last.node}" if last.node else ""
    again = f", queued again {last.restarts} times" if last.restarts else ""
    rows: list[tuple[str, object]] = [("slurm", f"job {last.job}: {last.state}{at}{again}")]
    told = [each for each in report.jobs if each.reason]
    return [
        *rows,
        *((f"  {day(each.at_s)}", printable(f"{each.state}: {each.reason}")) for each in told[-5:]),
    ]


def _error_rows(error: RunError | None) -> list[tuple[str, object]]:
    if error is None:
        return []
    rows: list[tuple[str, object]] = [("error", f"{error.error_id}: {error.message}")]
    return [*rows, ("hint", error.hint)] if error.hint else rows


def _early_rows(stop: EarlyStop | None) -> list[tuple[str, object]]:
    return [] if stop is None else [("stopped early", stop.sentence())]


def _go_on_rows(run: RunId, outcome: RunOutcome, abandoned: bool = False) -> list[tuple[str, object]]:
    ended_early = outcome in (RunOutcome.FAILED, RunOutcome.CANCELLED)
    return [("go on with", f"stoker run resume {run}")] if ended_early or abandoned else []


def _losses_text(report: RunReport) -> str:
    stands = [point for point in report.steps if point.stands]
    if not stands:
        return ""
    every = max(1, len(stands) // 10)
    shown = [*stands[::every], *([stands[-1]] if (len(stands) - 1) % every else [])]
    rows = [
        (point.step, point.attempt, "-" if point.loss is None else f"{point.loss:.4f}", f"{point.at_s:.1f}")
        for point in shown
    ]
    return "losses\n" + table(("step", "attempt", "loss, nats", "at s"), rows, indent="  ")


def recoveries_text(recoveries: Sequence[Recovery]) -> str:
    """One line a failure: what, when, what it cost."""
    return "\n".join(f"recovery  {printable(each.sentence())}" for each in recoveries)


def time_text(goodput: Goodput) -> str:
    """Seconds by kind, which add up to the wall time, and the rates that follow."""
    rows = [
        (
            kind.replace("_", " "),
            f"{seconds:.1f}",
            f"{seconds / goodput.wall_s:.1%}" if goodput.wall_s else "-",
        )
        for kind, seconds in goodput.seconds.items()
        if seconds > 0
    ]
    rows.append(("wall time", f"{goodput.wall_s:.1f}", ""))
    figures = pairs(
        [
            ("ETTR", "-" if goodput.ettr is None else f"{goodput.ettr:.3f}"),
            (
                "tokens/s",
                "-" if goodput.tokens_per_s is None else f"{goodput.tokens_per_s:,.0f} while stepping",
            ),
            ("steps lost", f"{goodput.steps_lost} (done again after a restart)"),
            ("failures", f"{goodput.failures}, of which injected {goodput.faults_injected}"),
        ]
    )
    return "time by kind\n" + table(("kind", "seconds", "share"), rows, indent="  ") + "\n" + figures


def feed_text(feed: FeedWaits) -> str:
    """How long steps waited for data, in a line."""
    return f"[feed]  {feed.sentence()}"


def evaluations_text(evaluations: Sequence[EvaluationFigure]) -> str:
    """Bits per byte on the held-out bytes, the model beside what it is measured against."""
    if not evaluations:
        return ""
    rows = [
        (
            each.name,
            "-" if each.bits_per_byte is None else f"{each.bits_per_byte:.3f}",
            f"{each.bytes:,}",
            human_seconds(each.seconds),
        )
        for each in evaluations
    ]
    return "held-out files, bits per byte\n" + table(
        ("what", "bits/byte", "bytes", "took"), rows, indent="  "
    )


def measured_text(figures: Sequence[MeasuredFigure]) -> str:
    """What the objective measured on held-out records."""
    if not figures:
        return ""
    rows = [(each.name, "-" if each.value is None else f"{each.value:.4f}") for each in figures]
    return f"held-out records, {figures[0].rows:,}\n" + table(("what", "value"), rows, indent="  ")


def sample_text(sample: str | None) -> str:
    """A short text that the model wrote."""
    if not sample:
        return ""
    return "a sample that the model wrote\n" + "\n".join(
        f"  | {line}" for line in printable(sample).splitlines()
    )
