"""The account of runs as text for a terminal."""

from __future__ import annotations

from stoker.cli.table import human_seconds, pairs, table
from stoker.core.clock import iso_utc
from stoker.fleet.fleet_account import ComponentRow, Expectation, FleetGoodput, MttfRow


def goodput_text(found: FleetGoodput) -> str:
    """Time by kind, failures with their intervals, and what formulas expect."""
    since = "" if found.since_s is None else f", since {iso_utc(found.since_s)}"
    parts = [
        pairs(
            [
                ("runs", f"{len(found.runs)}{since}"),
                ("ETTR", _share(found.ettr)),
                ("failures", found.failures),
                ("failures on purpose", sum(run.injected for run in found.runs)),
                ("pre-emptions", sum(run.goodput.preemptions for run in found.runs)),
            ]
        ),
        _time(found),
    ]
    if len(found.runs) > 1:
        parts.append(_runs(found))
    if found.by_size:
        parts.append(_sizes(found.by_size))
    if found.by_component:
        parts.append(_components(found.by_component))
    if found.expected:
        parts.append(_expected(found.expected))
    parts += [f"left out  {each}" for each in found.skipped]
    return "\n".join(parts)


def _time(found: FleetGoodput) -> str:
    whole_s = sum(found.node_seconds.values())
    rows = [
        (kind.value.replace("_", " "), f"{seconds:.1f}", f"{seconds / whole_s:.1%}")
        for kind, seconds in found.node_seconds.items()
        if seconds > 0
    ]
    rows.append(("all", f"{whole_s:.1f}", ""))
    return "time by kind\n" + table(("kind", "node-seconds", "share"), rows, indent="  ")


def _runs(found: FleetGoodput) -> str:
    rows = [
        (run.run, run.name, run.world_size, human_seconds(run.goodput.wall_s), _share(run.goodput.ettr))
        for run in found.runs
    ]
    return "runs\n" + table(("run", "name", "ranks", "wall", "ETTR"), rows, indent="  ")


def _sizes(rows: tuple[MttfRow, ...]) -> str:
    cells = [
        (
            str(row.least) if row.least == row.most else f"{row.least} to {row.most}",
            row.runs,
            row.failures,
            _time_s(row.mttf_s),
            _time_s(row.low_s),
            _time_s(row.high_s),
        )
        for row in rows
    ]
    header = ("ranks", "runs", "failures", "MTTF", "at least", "at most")
    return "mean time to failure, bounds at 95 %\n" + table(header, cells, indent="  ")


def _components(rows: tuple[ComponentRow, ...]) -> str:
    cells = [
        (
            row.kind.value.replace("_", " "),
            row.component.value.replace("_", " ") or "-",
            row.failures,
            _rate(row.per_1000_node_days),
            _rate(row.low),
            _rate(row.high),
        )
        for row in rows
    ]
    header = ("kind", "component", "failures", "per 1,000 node-days", "at least", "at most")
    return "failures by component, bounds at 95 %\n" + table(header, cells, indent="  ")


def _expected(rows: tuple[Expectation, ...]) -> str:
    cells = [
        (
            row.run,
            _share(row.measured),
            _share(row.closed) + ("" if row.within_range else " (out of its range)"),
            _share(row.exponential),
            human_seconds(row.mttf_s) + (", the fleet's" if row.assumed else ""),
        )
        for row in rows
    ]
    header = ("run", "measured", "closed form", "exponential form", "MTTF")
    return "ETTR beside what formulas expect\n" + table(header, cells, indent="  ")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _time_s(value: float | None) -> str:
    return "-" if value is None else human_seconds(value)
