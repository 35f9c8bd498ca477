"""Texts with labelled personal data, and how much of it a scan covers. See docs/design/detect.md, "Judged".

A file is JSON: a list of objects with `full_text` and `spans`, each with `entity_type`, `start_position` and
`end_position` in characters; `template_id`, when it is there, says which texts were made from one pattern.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from stoker.intake.detect.scan import Finding

RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and where its personal data lies, in characters."""

    text: str
    spans: tuple[tuple[int, int, str], ...]
    group: str


@dataclass(slots=True)
class Counts:
    """Characters of one text: found and gold, found, gold; and of each gold kind: covered, all."""

    both: int = 0
    found: int = 0
    gold: int = 0
    by_kind: dict[str, tuple[int, int]] = field(default_factory=dict)


def read(path: Path) -> list[Labelled]:
    """The texts of a file."""
    return [
        Labelled(
            record["full_text"],
            tuple(
                (one["start_position"], one["end_position"], one["entity_type"]) for one in record["spans"]
            ),
            str(record.get("template_id", number)),
        )
        for number, record in enumerate(json.loads(path.read_text(encoding="utf-8")))
    ]


def counts_of(one: Labelled, find: Callable[[bytes], Iterable[Finding]]) -> Counts:
    """What `find` covers of a text's personal data, whatever kind it takes it for."""
    data = one.text.encode()
    sizes = np.cumsum([0, *(len(letter.encode()) for letter in one.text)])
    covered = np.zeros(len(one.text), dtype=bool)
    for finding in find(data):
        first, last = np.searchsorted(sizes, (finding.start, finding.end))
        covered[first:last] = True
    gold = np.zeros(len(one.text), dtype=bool)
    counts = Counts()
    for start, end, kind in one.spans:
        gold[start:end] = True
        had, of = counts.by_kind.get(kind, (0, 0))
        counts.by_kind[kind] = (had + int(covered[start:end].sum()), of + end - start)
    counts.both, counts.found, counts.gold = int((covered & gold).sum()), int(covered.sum()), int(gold.sum())
    return counts


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95 % interval: texts drawn anew, all texts of a group together."""

    share: float
    low: float
    high: float
    of: int


def estimate(pairs: Sequence[tuple[int, int]], groups: Sequence[str]) -> Estimate:
    """The share of the sums of `pairs`, each of one text in its group."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (part, whole), group in zip(pairs, groups, strict=True):
        sums[group][0] += part
        sums[group][1] += whole
    table = np.array([sum_ for sum_ in sums.values() if sum_[1]], dtype=np.int64)
    if not len(table):
        return Estimate(0.0, 0.0, 1.0, 0)
    drawn = np.random.default_rng(0).integers(0, len(table), (RESAMPLES, len(table)))
    resampled = table[drawn].sum(axis=1)
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], (0.025, 0.975))
    part, whole = table.sum(axis=0)
    return Estimate(float(part / whole), float(low), float(high), int(whole))


def folds(texts: Sequence[Labelled], count: int) -> list[list[Labelled]]:
    """The texts in `count` parts, all texts of a group in one."""
    groups = sorted({one.group for one in texts})
    random.Random(0).shuffle(groups)
    place = {group: index % count for index, group in enumerate(groups)}
    parts: list[list[Labelled]] = [[] for _ in range(count)]
    for one in texts:
        parts[place[one.group]].append(one)
    return parts
