"""How much a document repeats itself, as fractions of its characters. See docs/design/quality.md.

The measures are those of Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from
Training Gopher", section A.1.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def duplicate_lines(text: str) -> float:
    """The fraction of characters, line ends not counted, in lines that stood before. Blank lines are none."""
    lines = [line for line in text.splitlines() if line.strip()]
    total = sum(map(len, lines))
    return sum((count - 1) * len(line) for line, count in Counter(lines).items()) / total if total else 0.0


def top_ngram(words: Sequence[str], length: int) -> float:
    """The fraction of the words' characters in the run of `length` words that fills most; 0 without one."""
    total = sum(map(len, words))
    counts = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    filled = (count * sum(map(len, run)) for run, count in counts.items() if count > 1)
    return min(1.0, max(filled, default=0) / total) if total else 0.0


def duplicate_ngrams(words: Sequence[str], length: int) -> float:
    """The fraction of the words' characters in runs of `length` words that stood before, counted once."""
    total = sum(map(len, words))
    if not total:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    counted_to = 0  # no character is counted twice where repeated runs overlap
    for start in range(len(words) - length + 1):
        run = tuple(words[start : start + length])
        if run in seen:
            repeated += sum(map(len, words[max(start, counted_to) : start + length]))
            counted_to = start + length
        else:
            seen.add(run)
    return repeated / total
