"""Precision and recall of the lemon score on fleets that were not used to choose its threshold.

`PYTHONPATH=tests python -m support.lemon_figures` prints the table of docs/design/nodes.md. Seeds 0 to 11
were used to choose the threshold; these are 100 to 111.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stoker.fleet.nodes.lemon import KINDS, RULE, NodeSignals, score_nodes
from support.lemon_fleet import LemonFleet, lemon_fleet

SEEDS = range(100, 112)
Judge = Callable[[Sequence[NodeSignals]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Figures:
    """How many of those called lemons are, and how many lemons are called so, over all fleets."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.right / max(self.right + self.wrong, 1)

    @property
    def recall(self) -> float:
        return self.right / max(self.right + self.missed, 1)

    def interval(self, share: float, count: int) -> tuple[float, float]:
        """Wilson's interval of 95 %."""
        z = 1.96
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
        return middle - half, middle + half


def by_rule(signals: Sequence[NodeSignals]) -> NDArray[np.bool_]:
    return np.array([each.lemon for each in score_nodes(signals)])


def by_one(name: str) -> Judge:
    """The same number of nodes as there are lemons, those with the highest surprise in one signal."""

    def judge(signals: Sequence[NodeSignals]) -> NDArray[np.bool_]:
        values = np.array([each.surprises[name] for each in score_nodes(signals, UNCAPPED)])
        chosen = np.zeros(len(values), dtype=np.bool_)
        chosen[np.argsort(-values, kind="stable")[:24]] = True
        return chosen

    return judge


UNCAPPED = replace(RULE, most_surprise=300.0)


def figures(fleets: Sequence[LemonFleet], judge: Judge = by_rule) -> Figures:
    called = np.concatenate([judge(each.signals) for each in fleets])
    lemons = np.concatenate([each.lemons for each in fleets])
    return Figures(int((called & lemons).sum()), int((called & ~lemons).sum()), int((~called & lemons).sum()))


def main() -> None:
    fleets = [lemon_fleet(seed) for seed in SEEDS]
    failed = np.mean([each.large_failed for each in fleets])
    without = np.mean([each.large_failed_without for each in fleets])
    print(f"jobs of 512 GPUs and more that fail: {failed:.1%} with lemons, {without:.1%} without")
    print("| judged by | spells | precision | recall |\n|---|---|---|---|")
    for spells in (0.01, 0.0, 0.02):
        found = figures(fleets if spells == 0.01 else [lemon_fleet(seed, spells) for seed in SEEDS])
        low, high = found.interval(found.precision, found.right + found.wrong)
        least, most = found.interval(found.recall, found.right + found.missed)
        print(
            f"| the rule | {spells:.0%} | {found.precision:.1%} ({low:.1%} to {high:.1%}) "
            f"| {found.recall:.1%} ({least:.1%} to {most:.1%}) |"
        )
    for name in KINDS:
        found = figures(fleets, by_one(name))
        print(f"| `{name}` alone, its 24 highest | 1% | {found.precision:.1%} | {found.recall:.1%} |")


if __name__ == "__main__":
    main()
