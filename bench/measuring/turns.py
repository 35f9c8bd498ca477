"""How samples are taken: everything that is compared takes turns in one process, round by round."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Probe: TypeAlias = Callable[[], float]
"""Does its piece of work once and returns one sample: seconds, or a rate."""


def processor_s(work: Callable[[], object]) -> float:
    """Seconds of processor time that this thread spends in `work`: other processes count little."""
    began_s = time.thread_time()
    work()
    return time.thread_time() - began_s


def wall_s(work: Callable[[], object]) -> float:
    """Seconds that pass during `work`."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def take_turns(probes: Mapping[str, Probe], rounds: int) -> dict[str, list[float]]:
    """One sample of every probe in each round, after one that does not count.

    Each round begins with another probe, so that none always comes after the same one. Cyclic garbage is
    collected between rounds only.
    """
    samples: dict[str, list[float]] = {name: [] for name in probes}
    names = list(probes)
    for probe in probes.values():
        probe()
    gc.disable()
    try:
        for turn in range(rounds):
            show_round(turn, rounds)
            gc.collect()
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(probes[name]())
    finally:
        gc.enable()
    return samples


def take_pairs(
    pairs: Mapping[str, tuple[Callable[[], T], Callable[[], T]]], rounds: int
) -> dict[str, list[tuple[T, T]]]:
    """In each round each case right beside its reference, which goes first in every other round.

    For what lasts so long that the machine is another by the time that all have had their turn: a ratio of
    two samples that were taken one after the other says more. A turn of each pair goes before and does not
    count.
    """
    samples: dict[str, list[tuple[T, T]]] = {name: [] for name in pairs}
    names = list(pairs)
    for turn in range(-1, rounds):
        show_round(max(turn, 0), rounds)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            case, reference = pairs[name]
            gc.collect()
            if turn % 2:
                before, took = reference(), case()
            else:
                took, before = case(), reference()
            if turn >= 0:
                samples[name].append((took, before))
    return samples


def show_round(turn: int, rounds: int) -> None:
    """Where the benchmark is, on a terminal's standard error; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\rround {turn + 1} of {rounds}\033[K", end="", file=sys.stderr, flush=True)
