"""The account of runs in Prometheus' text format 0.0.4. See docs/design/goodput.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from stoker.fleet.curves import label_text
from stoker.fleet.fleet_account import FleetGoodput

HELP: Final[Mapping[str, str]] = {
    "stoker_node_seconds": "Node-seconds of the runs asked for, by kind.",
    "stoker_run_seconds": "Seconds of one run, by kind; its kinds add up to its wall time.",
    "stoker_ettr": "Productive share of the time; without a run, of node-seconds.",
    "stoker_failures": "Failed attempts by kind and component, those on purpose left out.",
    "stoker_mttf_seconds": "Mean time to failure by ranks of the run; bounds at 95 %.",
    "stoker_expected_ettr": "What a formula expects of a run.",
}


def goodput_prometheus(found: FleetGoodput) -> str:
    """Every figure that is known, each family under its help and type; what is not known has no line."""
    families: dict[str, list[str]] = {}
    for name, labels, value in _figures(found):
        words = ",".join(f'{key}="{label_text(text)}"' for key, text in labels.items())
        families.setdefault(name, []).append(
            f"{name}{{{words}}} {value:.10g}" if words else f"{name} {value:.10g}"
        )
    lines = [
        line
        for name, rows in families.items()
        for line in (f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge", *rows)
    ]
    return "\n".join(lines) + "\n" if lines else ""


def _figures(found: FleetGoodput) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for kind, seconds in found.node_seconds.items():
        yield "stoker_node_seconds", {"kind": kind.value}, seconds
    for run in found.runs:
        for kind, seconds in run.goodput.seconds.items():
            yield "stoker_run_seconds", {"run": run.run, "kind": kind.value}, seconds
    if found.ettr is not None:
        yield "stoker_ettr", {}, found.ettr
    for run in found.runs:
        if run.goodput.ettr is not None:
            yield "stoker_ettr", {"run": run.run}, run.goodput.ettr
    for row in found.by_component:
        yield "stoker_failures", {"kind": row.kind.value, "component": row.component.value}, row.failures
    for size in found.by_size:
        ranks = f"{size.least}-{size.most}"
        for bound, value in (("mean", size.mttf_s), ("low", size.low_s), ("high", size.high_s)):
            if value is not None:
                yield "stoker_mttf_seconds", {"ranks": ranks, "bound": bound}, value
    for each in found.expected:
        for form, value in (("closed", each.closed), ("exponential", each.exponential)):
            labels = {"run": each.run, "form": form, "within_range": str(each.within_range).lower()}
            yield "stoker_expected_ettr", labels, value
