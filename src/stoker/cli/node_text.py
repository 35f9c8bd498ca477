"""What `stoker node ...` shows to people."""

from __future__ import annotations

from stoker.cli.table import human_seconds, table
from stoker.fleet.nodes.finding import CheckState, NodeReport


def report_text(report: NodeReport) -> str:
    """Every check in one line, and one line that says what follows."""
    rows = [
        (each.name, each.state.value, each.severity or "", f"{each.took_s * 1000:.0f} ms", each.evidence)
        for each in report.results
    ]
    counts = ", ".join(f"{len(report.of(state))} {state.value}" for state in CheckState)
    asked = f"; asks for: {report.severity.value}" if report.severity else ""
    head = f"{report.node}: {counts}, in {human_seconds(report.took_s)}{asked}"
    return f"{table(('check', 'state', 'severity', 'took', 'evidence'), rows)}\n{head}"
