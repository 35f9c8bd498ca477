"""The command line of a benchmark: `python bench/NAME.py [--json] [--quick] [--SIZE N]`.

Without `--json` a table, with it one object as docs/bench/README.md describes. Goals are for the usual sizes:
at smaller ones nothing is said of them. The exit code is 0 whether or not they hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from measuring.figures import Figure, Measured, plain_figures
from stoker.core.canonical import JsonValue
from stoker.core.clock import iso_utc


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured, in one direction: `--NAME N`; `quick` is the least that says anything."""

    name: str
    usual: int
    quick: int
    meaning: str


def run(bench: str, about: str | None, sizes: Sequence[Size], measure: Callable[..., Measured]) -> int:
    """Read the command line, call `measure` with each size by its name, and print what it found."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: does it work at all")
    for size in sizes:
        meaning = f"{size.meaning} (default {size.usual}, with --quick {size.quick})"
        parser.add_argument(f"--{size.name}", type=_at_least_one, metavar="N", help=meaning)
    options = parser.parse_args()
    chosen = {
        size.name: getattr(options, size.name) or (size.quick if options.quick else size.usual)
        for size in sizes
    }
    judged = all(chosen[size.name] >= size.usual for size in sizes)
    around = machine()
    began_s = time.perf_counter()
    found = measure(**chosen)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    around |= {"load_after": _load(), "took_s": round(time.perf_counter() - began_s, 1)}
    around |= {**chosen, **found.environment}
    if options.json:
        result: Mapping[str, JsonValue] = {
            "bench": bench,
            "figures": dict(plain_figures(found.figures, judged=judged)),
            "peers": dict(found.peers),
            "environment": around,
            "method": found.method,
        }
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(table(bench, found, around, judged=judged)))
    return 0


def machine() -> dict[str, JsonValue]:
    """Where and when it is measured."""
    return {
        "date": iso_utc(time.time()),
        "commit": _commit(),
        "stoker": _installed("stoker"),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "scheduling": _scheduling(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": _load(),
    }


def table(bench: str, found: Measured, around: Mapping[str, JsonValue], *, judged: bool) -> Iterator[str]:
    """The same as the JSON object, for people: lines of at most 110 characters where names allow."""
    yield f"{bench}   {', '.join(f'{name} {value}' for name, value in found.peers.items())}".rstrip()
    width = max(len(name) for name in found.figures)
    for name, figure in found.figures.items():
        yield f"  {name:{width}}  {_cells(figure, judged)}".rstrip()
    facts = ", ".join(f"{name} {value}" for name, value in around.items() if value is not None)
    for paragraph in (found.method, facts):
        yield from textwrap.wrap(paragraph, 108, initial_indent="  ", subsequent_indent="  ")


def _cells(figure: Figure, judged: bool) -> str:
    if figure.value is None:
        return f"{'—':>9} {figure.unit:11} not measured: {figure.reason}"
    spread = "" if figure.quartiles is None else " to ".join(shown(each) for each in figure.quartiles)
    goal = ""
    if figure.goal is not None:
        verdict = "holds" if figure.holds else "falls short"
        goal = f"goal {figure.goal}: {verdict if judged else 'not judged at these sizes'}"
    return f"{shown(figure.value):>9} {figure.unit:11} {spread:20} {goal}"


def shown(value: float) -> str:
    """A number as a table shows it: three or four digits that matter."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a whole number of at least 1")
    return number


def _installed(package: str) -> str | None:
    """Its version; None where it runs from a checkout only."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _load() -> float:
    """How many processes wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def _scheduling() -> str | None:
    """How this process gets its turns: in real time (`chrt -r 5 python …`) no other runs while it works."""
    if not hasattr(os, "sched_getscheduler"):
        return None
    names = {os.SCHED_OTHER: "ordinary", os.SCHED_RR: "real time", os.SCHED_FIFO: "real time"}
    return names.get(os.sched_getscheduler(0), "other")


def _commit() -> str | None:
    """The commit that was measured, with `-dirty` when files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
