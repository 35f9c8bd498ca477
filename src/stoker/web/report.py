"""A run's page: one self-contained HTML file with its loss curve, its time, its figures and its lineage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from stoker.core.atomic import write_atomic
from stoker.core.clock import iso_utc
from stoker.core.home import Home
from stoker.fleet.feed_waits import FeedWaits
from stoker.fleet.goodput import Goodput, TimeKind
from stoker.fleet.lineage import MixedIn
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import RunReport
from stoker.web.charts import Mark, Part, Series, line_chart, share_bar
from stoker.web.style import STYLE

_TIME_STYLES: Final = {
    TimeKind.PRODUCTIVE: "productive",
    TimeKind.EVALUATE: "evaluate",
    TimeKind.CHECKPOINT: "checkpoint",
    TimeKind.DATA_WAIT: "data",
    TimeKind.START_UP: "startup",
    TimeKind.COMPILATION: "startup",
    TimeKind.DETECTION: "detection",
    TimeKind.HANG: "detection",
    TimeKind.RESTART: "restart",
    TimeKind.QUEUE: "other",
    TimeKind.PREEMPTION: "restart",
    TimeKind.LOST: "lost",
    TimeKind.OTHER: "other",
}


_SMOOTH_PARTS: Final = 60
"""The drawn mean covers one part in so many of the run."""


def write_report(report: RunReport, home: Home, out: Path | None = None) -> Path:
    """Write the page into the run's folder, or to `out`, and return where. Raises DiskFull."""
    path = out or RunFolder.of(home.runs_dir, report.run).path / "report.html"
    write_atomic(path, render_report(report).encode())
    return path


def render_report(report: RunReport) -> str:
    """The page as text. Every value from outside is escaped; the page loads nothing."""
    title = escape(f"{report.name} · {report.run}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(report.name)}</h1><p>{escape(report.run)} · {escape(report.outcome)} · started "
        f"{iso_utc(report.started_s)} by {escape(report.started_by)}</p>{_error(report)}</header>"
        f"{_tiles(report)}"
        f"<section><h2>Loss</h2>{_loss_chart(report)}{_recoveries(report)}</section>"
        f"<section><h2>Where the time went</h2>{_time(report.goodput)}{_feed(report.feed)}"
        f"<p><b>[ranks]</b> {escape(report.stragglers.sentence())}.</p></section>"
        f"<section><h2>Held-out files</h2>{_evaluations(report)}</section>"
        f"{_exposures(report)}{_sample(report)}"
        f"<section><h2>Lineage</h2>{_lineage(report)}</section>"
        "<footer>Every figure on this page was measured: it is computed from the run's events.</footer>"
        "</main></body></html>"
    )


def _error(report: RunReport) -> str:
    error = report.error
    return "" if error is None else f"<p><b>{escape(error.error_id)}</b>: {escape(error.message)}</p>"


def _tiles(report: RunReport) -> str:
    goodput = report.goodput
    model = next((each.bits_per_byte for each in report.evaluations if each.name == "model"), None)
    tiles = [
        ("bits per byte, held out", _number(model, ".3f")),
        ("ETTR", _number(goodput.ettr, ".3f")),
        ("tokens per second", _number(goodput.tokens_per_s, ",.0f")),
        (f"of {report.steps_planned:,} steps", f"{goodput.steps:,}"),
        ("failures survived", f"{sum(each.next_step_s is not None for each in report.recoveries)}"),
        ("wall time", f"{goodput.wall_s:.0f} s"),
        ("parameters", _number(report.parameters, ",d")),
    ]
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles)
    return f'<div class="tiles">{cells}</div>'


def _loss_chart(report: RunReport) -> str:
    stands = [(float(point.step), _or_nan(point.loss)) for point in report.steps if point.stands]
    series = [
        Series(f"attempt {attempt}, done again later", lost, "redone")
        for attempt in sorted({point.attempt for point in report.steps})
        if (
            lost := [
                (float(point.step), _or_nan(point.loss))
                for point in report.steps
                if not point.stands and point.attempt == attempt
            ]
        )
    ]
    series.append(Series("loss of each step", stands, "raw"))
    window = max(1, len(stands) // _SMOOTH_PARTS)
    series.append(Series(f"mean of {window} steps", _smoothed(stands, window), "loss"))
    marks: list[Mark] = []
    for each in report.recoveries:
        word = "kill" if each.injected else "failure"
        marks.append(Mark(float(each.step), word, each.sentence(), "kill"))
        if each.resume_step is not None and each.next_step_s is not None:
            sentence = f"Training went on from the checkpoint of step {each.resume_step}."
            marks.append(Mark(float(each.resume_step), "recovery", sentence, "recovery"))
    return line_chart(series, marks, x_title="step", y_title="loss, nats a token")


def _smoothed(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """At each place the mean of the `window` values up to it; a value that is not finite gives a gap."""
    return [
        (points[end - 1][0], math.fsum(value for _, value in points[end - window : end]) / window)
        for end in range(window, len(points) + 1)
    ]


def _recoveries(report: RunReport) -> str:
    if not report.recoveries:
        return "<p>Nothing failed.</p>"
    return "<ul>" + "".join(f"<li>{escape(each.sentence())}.</li>" for each in report.recoveries) + "</ul>"


def _time(goodput: Goodput) -> str:
    parts = [
        Part(kind.value.replace("_", " "), goodput.seconds[kind], style)
        for kind, style in _TIME_STYLES.items()
        if goodput.seconds[kind] > 0
    ]
    facts = [
        ("ETTR: productive over wall time", _number(goodput.ettr, ".3f")),
        ("tokens per second while stepping", _number(goodput.tokens_per_s, ",.0f")),
        ("tokens per second of the whole run", _number(goodput.tokens_per_s_of_run, ",.0f")),
        ("steps done again after a restart", f"{goodput.steps_lost:,}"),
        ("failures, and those on purpose", f"{goodput.failures}, {goodput.faults_injected}"),
        ("mean time to failure", "no failure" if goodput.mttf_s is None else f"{goodput.mttf_s:.0f} s"),
    ]
    return share_bar(parts, unit="s") + _facts(facts)


def _feed(feed: FeedWaits) -> str:
    return f"<p><b>[feed]</b> {escape(feed.sentence())}.</p>"


def _evaluations(report: RunReport) -> str:
    if report.measured:
        return _measured(report)
    if not report.evaluations:
        return '<p class="empty">The run was not evaluated.</p>'
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{_number(each.bits_per_byte, '.3f')}</td>"
        f"<td>{each.bytes:,}</td><td>{each.seconds:.1f} s</td></tr>"
        for each in report.evaluations
    )
    return (
        "<table><thead><tr><th>what</th><th>bits per byte</th><th>bytes</th><th>took</th></tr></thead>"
        f"<tbody>{rows}</tbody></table><p>The same held-out bytes for each. The bigram was counted on the "
        "same training split; the compressors are shown, not claimed.</p>"
    )


def _measured(report: RunReport) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{_number(each.value, '.4f')}</td></tr>"
        for each in report.measured
    )
    return (
        "<table><thead><tr><th>what</th><th>value</th></tr></thead>"
        f"<tbody>{rows}</tbody></table><p>On {report.measured[0].rows:,} held-out records.</p>"
    )


def _exposures(report: RunReport) -> str:
    if not report.exposures:
        return ""
    lines = "".join(f"<p>{escape(each.sentence())}.</p>" for each in report.exposures)
    return f"<section><h2>What it knows by heart</h2>{lines}</section>"


def _sample(report: RunReport) -> str:
    if not report.sample:
        return ""
    return f"<section><h2>A sample that the model wrote</h2><pre>{escape(report.sample)}</pre></section>"


def _lineage(report: RunReport) -> str:
    lineage = report.lineage
    return _facts(
        [
            ("source", f"{lineage.source}, version {lineage.source_version}"),
            ("its manifest", lineage.source_root),
            ("review", f"{lineage.review}, for {lineage.purpose}"),
            ("asked by, decided by", f"{lineage.requested_by}, {lineage.decided_by or '-'}"),
            ("recipe", lineage.recipe_digest),
            ("dataset", f"{lineage.dataset}, version {lineage.dataset_version}"),
            ("its root", lineage.dataset_root),
            ("its key", lineage.dataset_kek),
            *(row for each in lineage.mixed_with for row in _mixed_in(each)),
            ("run file", report.spec_digest),
            ("key of the checkpoints", lineage.run_kek),
            ("network", _isolation(report)),
        ]
    )


def _mixed_in(part: MixedIn) -> list[tuple[str, str]]:
    return [
        ("mixed with", f"{part.dataset}, version {part.dataset_version}, weight {part.weight:g}"),
        ("its source", f"{part.source}, version {part.source_version}, review {part.review}"),
        ("its root", part.dataset_root),
    ]


def _isolation(report: RunReport) -> str:
    return (
        "not reported" if report.isolation is None else f"{report.isolation.state}: {report.isolation.reason}"
    )


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    return (
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows) + "</dl>"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
