"""How fast text is scanned for personal data, beside Python's own `re` on the same patterns.

Run `python bench/scan.py`, or with `--json` for one object. See docs/design/intake.md, "Measured".
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_least, median_of, ratio_of, versions_of
from measuring.texts import source_files
from measuring.turns import Probe, processor_s, take_turns
from stoker.intake.detect.patterns import PATTERNS
from stoker.intake.detect.scan import ALL_KINDS, find, redact, set_of

PEER_MEGABYTES: Final = 2
METHOD: Final = (
    "The running Python's own standard library (*.py without site-packages). In each round, in rotating "
    "order: the RE2 set alone over every file; the whole find (set, candidates, exact recognisers); "
    "redaction, which finds until nothing is left; Python's re with all patterns joined by '|' over the "
    "first 2 MB. By processor time of the one thread; medians and quartiles of the rounds; the ratio is "
    "taken round by round."
)


def rate(texts: Sequence[bytes], work: Callable[[bytes], object]) -> float:
    """MB/s of `work` over every text."""
    return sum(map(len, texts)) / processor_s(lambda: [work(text) for text in texts]) / 1e6


def measure(megabytes: int, rounds: int) -> Measured:
    """Rates of each stage, and find beside Python's `re`."""
    texts = [path.read_bytes() for path in source_files(megabytes)]
    few = [path.read_bytes() for path in source_files(min(megabytes, PEER_MEGABYTES))]
    stage_one = set_of(ALL_KINDS)
    joined = re.compile(b"|".join(b"(?:" + _inline(one.expression) + b")" for one in PATTERNS))
    probes: dict[str, Probe] = {
        "set": lambda: rate(texts, stage_one.Match),
        "find": lambda: rate(texts, find),
        "redact": lambda: rate(texts, lambda text: redact(text, ALL_KINDS)),
        "python_re": lambda: rate(few, lambda text: sum(1 for _ in joined.finditer(text))),
    }
    rates = take_turns(probes, rounds)
    goals = {"set": at_least(250.0)}
    figures = {name: median_of(found, "MB/s", goals.get(name)) for name, found in rates.items()}
    figures["find_to_python_re"] = ratio_of(rates["find"], rates["python_re"], at_least(10.0))
    figures["findings"] = Figure(sum(len(find(text)) for text in texts), "findings")
    return Measured(
        figures,
        METHOD,
        peers={"re": platform.python_version(), **versions_of("google-re2")},
        environment={"files": len(texts), "bytes": sum(map(len, texts))},
    )


def _inline(expression: bytes) -> bytes:
    """Python wants `(?i)` at the start of the whole expression; here it applies to one part."""
    return b"(?i:" + expression[4:] + b")" if expression.startswith(b"(?i)") else expression


SIZES: Final = (
    Size("megabytes", 1000, 2, "how much text at most"),
    Size("rounds", 5, 1, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("scan", __doc__, SIZES, measure))
