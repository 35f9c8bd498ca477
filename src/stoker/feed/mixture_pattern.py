"""Which part of a mixture each sample comes from: a fixed pattern of 1,000. See docs/design/feed.md.

A pattern that repeats every 1,000 samples holds exactly weight · 1,000 of each part in every window of
1,000, wherever the window begins, and makes "which sample of its part is this" a division and a look-up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stoker.feed.errors import BadMixture
from stoker.spec.mixture import PERIOD, turns_of, weights_problem


def turns_of_weights(weights: tuple[float, ...]) -> tuple[int, ...]:
    """How many of every `PERIOD` samples each part gives: weight · `PERIOD`, exactly.

    Raises BadMixture, naming the nearest weights that can be, unless each is a whole number of thousandths,
    at least one, and together they are 1.
    """
    problem = weights_problem(weights)
    if problem:
        raise BadMixture(problem, hint="Write weights that keep the rule.")
    return turns_of(weights)


@lru_cache(maxsize=64)
def pattern_of_turns(turns: tuple[int, ...]) -> npt.NDArray[np.int16]:
    """The part of each of `PERIOD` samples, int16 [PERIOD], evenly spread. Read-only.

    Tijdeman's answer to the chairman assignment problem (Discrete Mathematics 32, 1980): of the parts that
    lag by at least 1/D of a turn, D = 2·(parts - 1), the one whose lag will first reach 1 - 1/D has the
    next turn. Then after any number of samples no part is ahead or behind its weight by more than 1 - 1/D.
    """
    pattern = np.zeros(PERIOD, dtype=np.int16)
    scale = 2 * (len(turns) - 1)
    given = [0] * len(turns)
    for place in range(PERIOD if scale else 0):
        best, best_slack = -1, 0
        for part, count in enumerate(turns):
            lag = scale * (count * (place + 1) - PERIOD * given[part])  # in 1 / (D · PERIOD) turns
            slack = PERIOD * (scale - 1) - lag  # over `count`: the samples until the lag is too large
            if lag >= PERIOD and (best < 0 or slack * turns[best] < best_slack * count):
                best, best_slack = part, slack
        given[best] += 1
        pattern[place] = best
    pattern.setflags(write=False)
    return pattern


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of one part: the places of the pattern, ascending, at which it gives a sample.

    `n` below counts the part's own samples, `g` the samples of the whole mixture, both since the beginning.
    """

    places: tuple[int, ...]
    used: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """1 where the pattern names this part, else 0; [PERIOD]."""
    _places: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _before: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.places or list(self.places) != sorted({place % PERIOD for place in self.places}):
            raise ValueError(f"the places must be some of [0, {PERIOD}), ascending, not {self.places}")
        places = np.array(self.places, dtype=np.int64)
        used = np.zeros(PERIOD, dtype=np.int64)
        used[places] = 1
        object.__setattr__(self, "used", used)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_before", np.concatenate(([0], np.cumsum(used))))

    @property
    def count(self) -> int:
        """The part's turns in `PERIOD` samples."""
        return len(self.places)

    def samples_before(self, g: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many of the first g samples of the mixture are this part's: also the n of the next of them."""
        periods, within = np.divmod(g, PERIOD)
        return periods * self.count + self._before[within]

    def mixture_index(self, n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The g of this part's sample n."""
        periods, turn = np.divmod(n, self.count)
        return periods * PERIOD + self._places[turn]


def turns_of_parts(turns: tuple[int, ...]) -> tuple[Turns, ...]:
    """The turns of every part of the mixture whose parts give `turns` of every `PERIOD` samples."""
    pattern = pattern_of_turns(turns)
    return tuple(Turns(tuple(np.flatnonzero(pattern == part).tolist())) for part in range(len(turns)))
