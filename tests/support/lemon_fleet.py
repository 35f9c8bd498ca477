"""A seeded synthetic fleet: 2,000 nodes over 28 days, 1.2 % of them lemons, and what is counted at each node.

Figures of RSC-1 (tests/data/reliability, arXiv:2410.21680) shape jobs, root causes and rates; everything else
is an assumption, named below. It is made to be unkind: nodes that were bad for some days and then repaired,
racks that are taken out together, jobs that crash by themselves, and exclusions by hearsay are no lemons.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stoker.fleet.nodes.lemon import NodeSignals

DATA: Final = Path(__file__).parents[1] / "data/reliability"

NODES: Final = 2000
DAYS: Final = 28
LEMON_SHARE: Final = 0.012
SINGLE_NODE_JOBS: Final = 6480 / NODES
"""A day and node: 7,200 jobs a day, 90 % of them smaller than one server."""

SIZES: Final = np.array([2, 4, 8, 16, 32, 64, 128, 256])
SHARES: Final = np.array([0.35, 0.25, 0.16, 0.10, 0.07, 0.045, 0.02, 0.005])
"""Nodes of the other 720 jobs a day: jobs of 256 GPUs and more take 66 % of the time, as at RSC-1."""

MULTI_NODE_JOBS: Final = 720
BUSY_NODE_DAYS: Final = 0.75 * NODES
LARGE: Final = 64
"""Nodes of a job of 512 GPUs."""

SOUND_RATE: Final = 0.0022
"""Failures a day of a sound node: 4 % of jobs of 512 GPUs and more fail when lemons are gone."""

LEMON_RATE: Final = 0.55
LEMON_SPREAD: Final = 0.9
"""Median and sigma (lognormal) of a lemon's failures a day: with them 14 % of those jobs fail."""

SPELL_SHARE: Final = 0.01
SPELL_DAYS: Final = 4
"""As many sound nodes as lemons fail like lemons for up to four days, and are mended then."""

RACK: Final = 40
XID_OF_CAUSE: Final = {"GPU": 0.9, "PCIe": 0.43, "EUD": 0.3}
"""How often a failure shows as an Xid; 0.43 is RSC-1's of PCIe errors, the others are assumed."""


@dataclass(frozen=True)
class LemonFleet:
    """What was counted at each node, which are lemons, and how many large jobs failed with and without."""

    signals: tuple[NodeSignals, ...]
    lemons: NDArray[np.bool_]
    large_failed: float
    large_failed_without: float
    jobs_touched: float


def lemon_fleet(seed: int, spell_share: float = SPELL_SHARE) -> LemonFleet:
    """The fleet of this seed; `spell_share` of its nodes are bad for some days only."""
    rng = np.random.default_rng(seed)
    lemons = np.zeros(NODES, dtype=np.bool_)
    lemons[rng.choice(NODES, round(LEMON_SHARE * NODES), replace=False)] = True
    rate = np.where(
        lemons,
        LEMON_RATE * rng.lognormal(0.0, LEMON_SPREAD, NODES),
        SOUND_RATE * rng.lognormal(-0.18, 0.6, NODES),
    )
    xid_share = _xid_shares(rng, lemons)
    spells = _spells(rng, lemons, spell_share)
    counts = {
        name: np.zeros(NODES) for name in ("excluded", "xid", "tickets", "out", "multi", "single", "jobs")
    }
    large = np.zeros(3)
    touched = np.zeros(2)
    for day in range(DAYS):
        today = rate + spells[day]
        blamed, failed_large, touch = _multi_node_day(rng, today, lemons)
        counts["multi"] += blamed
        large += failed_large
        touched += touch
        jobs = rng.poisson(SINGLE_NODE_JOBS, NODES)
        broken = rng.poisson(today * 0.25)
        # One in a hundred crashes of a program's own is taken for the node's; some users crash in a loop.
        loops = rng.random(NODES) < 0.004
        mistaken = rng.binomial(jobs, 0.24 * 0.01) + loops * rng.poisson(2.0, NODES)
        counts["single"] += np.minimum(broken + mistaken, jobs + broken)
        counts["jobs"] += jobs + broken
        hardware = blamed + broken
        counts["xid"] += rng.binomial(hardware.astype(int), xid_share) + rng.poisson(0.004, NODES)
        out = rng.binomial(hardware.astype(int), 0.6) + _racks_out(rng)
        counts["out"] += out
        counts["tickets"] += rng.binomial(out.astype(int), 0.3)
        counts["excluded"] += rng.binomial(hardware.astype(int), 0.2) * rng.geometric(0.3, NODES)
        counts["excluded"] += (rng.random(NODES) < 0.003) * rng.geometric(0.1, NODES)
    signals = tuple(
        NodeSignals(
            f"n{index:04d}",
            *(
                int(counts[name][index])
                for name in ("excluded", "xid", "tickets", "out", "multi", "single", "jobs")
            ),
        )
        for index in range(NODES)
    )
    return LemonFleet(
        signals, lemons, large[0] / large[2], large[1] / large[2], float(touched[0] / touched[1])
    )


def _xid_shares(rng: np.random.Generator, lemons: NDArray[np.bool_]) -> NDArray[np.float64]:
    with (DATA / "rsc_lemon_root_causes.csv").open(newline="") as file:
        causes = [(row["component"], float(row["pct"])) for row in csv.DictReader(file)]
    shares = np.array([share for _, share in causes])
    drawn = rng.choice(len(causes), size=len(lemons), p=shares / shares.sum())
    by_cause = np.array([XID_OF_CAUSE.get(name, 0.05) for name, _ in causes])
    return np.asarray(by_cause[drawn])


def _spells(rng: np.random.Generator, lemons: NDArray[np.bool_], spell_share: float) -> NDArray[np.float64]:
    """Further failures a day [days, nodes] of sound nodes that are bad for some days, then mended."""
    spells = np.zeros((DAYS, NODES))
    for node in np.flatnonzero((rng.random(NODES) < spell_share) & ~lemons):
        begin, length = rng.integers(DAYS), rng.integers(1, SPELL_DAYS + 1)
        spells[begin : begin + length, node] = LEMON_RATE * rng.lognormal(0.0, LEMON_SPREAD)
    return spells


def _racks_out(rng: np.random.Generator) -> NDArray[np.float64]:
    """Racks that are taken out of service together, for power or switches."""
    return np.repeat(rng.random(NODES // RACK) < 0.01, RACK).astype(np.float64)


def _multi_node_day(
    rng: np.random.Generator, rate: NDArray[np.float64], lemons: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A day's jobs on several nodes: failures blamed on each node; large jobs failed, failed without lemons,
    and in all; jobs that touched a lemon, and all."""
    sizes = rng.choice(SIZES, size=MULTI_NODE_JOBS, p=SHARES)
    total = int(sizes.sum())
    seats = np.concatenate([rng.permutation(NODES) for _ in range(total // NODES + 2)])[:total]
    days = rng.exponential(BUSY_NODE_DAYS / total, MULTI_NODE_JOBS)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    hazard = rate[seats]
    of_job = np.add.reduceat(hazard, starts)
    sound = np.add.reduceat(np.where(lemons[seats], 0.0, hazard), starts)
    drawn = rng.exponential(1.0, MULTI_NODE_JOBS)
    failed = drawn < of_job * days
    # The node is drawn by its part of the job's hazard; in 15 of 100 another of the job is blamed, and in 40
    # of 100 failures nobody is.
    upto = np.cumsum(hazard)
    before = np.concatenate([[0.0], upto])[starts]
    seat = np.searchsorted(upto, before + rng.random(MULTI_NODE_JOBS) * of_job, side="right")
    other = starts + (rng.random(MULTI_NODE_JOBS) * sizes).astype(int)
    seat = np.where(rng.random(MULTI_NODE_JOBS) < 0.15, other, np.minimum(seat, starts + sizes - 1))
    told = failed & (rng.random(MULTI_NODE_JOBS) < 0.6)
    blamed = np.bincount(seats[seat[told]], minlength=NODES).astype(np.float64)
    large = sizes >= LARGE
    touch = np.add.reduceat(lemons[seats].astype(np.float64), starts) > 0
    return (
        blamed,
        np.array(
            [(failed & large).sum(), ((drawn < sound * days) & large).sum(), large.sum()], dtype=np.float64
        ),
        np.array([touch.sum() + SINGLE_NODE_JOBS * lemons.sum(), len(sizes) + SINGLE_NODE_JOBS * NODES]),
    )
