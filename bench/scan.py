"""How fast text is scanned for personal data, beside Python's own `re` on the same patterns.

Run `python bench/scan.py`, or with `--json` for one object. See docs/design/intake.md, "Measured".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from stoker.intake.patterns import PATTERNS
from stoker.intake.scan import ALL_KINDS, find, redact, set_of

PEER_BYTES: Final = 2_000_000
METHOD: Final = (
    "The running Python's own standard library (*.py without site-packages). In each round, in turn: the RE2 "
    "set alone over every file; the whole find (set, candidates, exact recognisers); redaction, which finds "
    "until nothing is left; Python's re with all patterns joined by '|' over the first 2 MB. MB/s by the "
    "thread's processor time; medians of the rounds; spread is max - min."
)


def standard_library() -> list[bytes]:
    """The sources of the running Python, file by file."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)
    return [path.read_bytes() for path in paths]


def rate(texts: list[bytes], work: Callable[[bytes], object]) -> float:
    """MB/s of `work` over every text."""
    began = time.thread_time()
    for text in texts:
        work(text)
    return sum(map(len, texts)) / (time.thread_time() - began) / 1e6


def first_bytes(texts: list[bytes], limit: int) -> list[bytes]:
    """As many of the texts as begin within `limit` bytes."""
    taken, total = [], 0
    for text in texts:
        if total >= limit:
            break
        taken.append(text)
        total += len(text)
    return taken


def measure(rounds: int) -> dict[str, Any]:
    """The benchmark's whole result."""
    texts = standard_library()
    few = first_bytes(texts, PEER_BYTES)
    stage_one = set_of(ALL_KINDS)
    joined = re.compile(b"|".join(b"(?:" + _inline(one.expression) + b")" for one in PATTERNS))
    probes: dict[str, Callable[[], float]] = {
        "set": lambda: rate(texts, stage_one.Match),
        "find": lambda: rate(texts, find),
        "redact": lambda: rate(texts, lambda text: redact(text, ALL_KINDS)),
        "python_re": lambda: rate(few, lambda text: sum(1 for _ in joined.finditer(text))),
    }
    rates: dict[str, list[float]] = {name: [] for name in probes}
    for _ in range(rounds):
        for name, probe in probes.items():
            rates[name].append(probe())
    figures = {name: _figure(statistics.median(found), "MB/s") for name, found in rates.items()}
    figures["set"] |= {"goal": 250.0, "holds": figures["set"]["value"] >= 250.0}
    for name, found in rates.items():
        figures[f"{name}_spread"] = _figure(max(found) - min(found), "MB/s")
    ratio = figures["find"]["value"] / figures["python_re"]["value"]
    figures["find_to_python_re"] = _figure(ratio, "ratio", 10.0, ratio >= 10.0)
    figures["findings"] = _figure(float(sum(len(find(text)) for text in texts)), "findings")
    return {
        "bench": "scan",
        "figures": figures,
        "peers": {"re": platform.python_version(), "google-re2": version("google-re2")},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "files": len(texts),
            "megabytes": round(sum(map(len, texts)) / 1e6, 3),
            "rounds": rounds,
        },
        "method": METHOD,
    }


def _inline(expression: bytes) -> bytes:
    """Python wants `(?i)` at the start of the whole expression; here it applies to one part."""
    return b"(?i:" + expression[4:] + b")" if expression.startswith(b"(?i)") else expression


def _figure(value: float, unit: str, goal: float | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result))
        return 0
    for name, figure in result["figures"].items():
        goal = "" if figure["goal"] is None else f"   goal {figure['goal']}: {figure['holds']}"
        print(f"{name:28} {figure['value']:>12,.3f} {figure['unit']}{goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
