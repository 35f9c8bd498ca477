"""Which rank the others wait for, and how much time that costs: from what every rank tells of its own steps.

See docs/design/watch.md, "Parts".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.core.events import Event, EventKind, Section

PARTS: Final = (Section.DATA, Section.COMPUTE, Section.OPTIMIZER)

NOTABLE: Final = 0.05
"""A rank that costs less than this share of the steps' time is not called slow."""


@dataclass(frozen=True, slots=True)
class SlowRank:
    """One rank that others waited for: `lost_s` of the steps' time, most of it in `part`."""

    rank: int
    node: str
    part: Section
    lost_s: float
    share_of_lost: float
    share_of_step_time: float


@dataclass(frozen=True, slots=True)
class Stragglers:
    """Over all steps of which every rank told its parts: how long they took, and what slow ranks cost of it.

    A window of steps loses what its slowest rank took more than the median of the others did. `ranks` are
    those that were ever the slowest, the dearest first. `compared` is empty where nothing was told, and names
    the parts that could be compared: on a CUDA device the waits of compute cannot be told from its work.
    """

    steps: int = 0
    steps_s: float = 0.0
    lost_s: float = 0.0
    ranks: tuple[SlowRank, ...] = ()
    compared: tuple[Section, ...] = ()

    @property
    def slowest(self) -> SlowRank | None:
        """The rank that costs most, when that is worth a look."""
        worst = self.ranks[0] if self.ranks else None
        return worst if worst is not None and worst.share_of_step_time >= NOTABLE else None

    def sentence(self) -> str:
        """All of it in a line."""
        if not self.steps:
            return "no step of which every rank told its own part"
        worst = self.slowest
        if worst is None:
            return f"no rank is slower than the others: {self.lost_s:.3f} s lost over {self.steps:,} steps"
        return (
            f"rank {worst.rank} on {worst.node} is slower than the others, in {worst.part}: it cost "
            f"{worst.lost_s:.3f} s, {worst.share_of_step_time:.1%} of step time and "
            f"{worst.share_of_lost:.0%} of what slow ranks cost"
        )


NONE_TOLD: Final = Stragglers()


def find_stragglers(events: Iterable[Event]) -> Stragglers:
    """Of all `rank_parts`; windows that not every rank of the attempt told of are left out."""
    world: dict[int, int] = {}
    told: dict[tuple[int, int], dict[int, Event]] = {}
    for event in events:
        if event.kind is EventKind.ATTEMPT_STARTED:
            world[event.attempt] = int(event.number("world_size"))
        elif event.kind is EventKind.RANK_PARTS:
            told.setdefault((event.attempt, int(event.number("step"))), {})[event.rank] = event
    whole = [
        window
        for (attempt, _), window in told.items()
        if len(window) > 1
        and len(window) == world.get(attempt, len(window))
        and len({each.number("first_step") for each in window.values()}) == 1
    ]
    if not whole:
        return NONE_TOLD
    host_waits = all(each.fields.get("host_waits") is True for window in whole for each in window.values())
    compared = PARTS if host_waits else (Section.DATA, Section.OPTIMIZER)
    return _summed(whole, compared)


def _summed(windows: list[dict[int, Event]], compared: tuple[Section, ...]) -> Stragglers:
    steps, steps_s = 0, 0.0
    lost: dict[int, dict[Section, float]] = {}
    nodes: dict[int, str] = {}
    for window in windows:
        first = next(iter(window.values()))
        steps += int(first.number("step") - first.number("first_step")) + 1
        steps_s += max(_own_s(each, PARTS) + _finite(each.number("waited_s")) for each in window.values())
        slow = max(window, key=lambda rank: _own_s(window[rank], compared))
        others = [each for rank, each in window.items() if rank != slow]
        late_s = _own_s(window[slow], compared) - statistics.median(_own_s(each, compared) for each in others)
        nodes[slow] = window[slow].node
        by_part = lost.setdefault(slow, dict.fromkeys(compared, 0.0))
        excess = {part: _excess_s(window[slow], others, part) for part in compared}
        whole_s = math.fsum(excess.values())
        for part in compared:
            by_part[part] += late_s * excess[part] / whole_s if whole_s > 0 else 0.0
    lost_s = math.fsum(math.fsum(parts.values()) for parts in lost.values())
    ranks = [_slow_rank(rank, nodes[rank], parts, lost_s, steps_s) for rank, parts in lost.items()]
    ranks.sort(key=lambda each: (-each.lost_s, each.rank))
    return Stragglers(steps, steps_s, lost_s, tuple(ranks), compared)


def _slow_rank(
    rank: int, node: str, parts: Mapping[Section, float], lost_s: float, steps_s: float
) -> SlowRank:
    own_s = math.fsum(parts.values())
    part = max(parts, key=lambda each: parts[each])
    shares = [own_s / whole_s if whole_s > 0 else 0.0 for whole_s in (lost_s, steps_s)]
    return SlowRank(rank, node, part, own_s, *shares)


def _excess_s(slow: Event, others: list[Event], part: Section) -> float:
    return max(_own_s(slow, (part,)) - statistics.median(_own_s(each, (part,)) for each in others), 0.0)


def _own_s(event: Event, parts: tuple[Section, ...]) -> float:
    return math.fsum(_finite(event.number(f"{part.value}_s")) for part in parts)


def _finite(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0
