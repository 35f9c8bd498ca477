"""Where a feed is, in numbers that say nothing of ranks or world size: docs/design/feed.md, "State"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stoker.feed.errors import BadFeedState

_COUNTS: Final = ("format", "seed", "global_batch", "window_chunks", "epoch", "consumed")
_TEXTS: Final = ("root", "split")


@dataclass(frozen=True, slots=True)
class FeedState:
    """`consumed` samples of the whole world since the first epoch began; `epoch` follows from it.

    The other fields name the order; a state fits only a feed that has the same.
    """

    format: int
    root: str
    split: str
    seed: int
    global_batch: int
    window_chunks: int
    epoch: int
    consumed: int

    def as_dict(self) -> dict[str, int | str]:
        """The state as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, object]) -> FeedState:
        """The state that `as_dict` made. Raises BadFeedState, naming every field that is missing or wrong."""
        names = {*_COUNTS, *_TEXTS}
        wrong = [f"{name!r} is missing" for name in sorted(names - set(saved))]
        wrong += [f"{name!r} is unknown" for name in sorted(set(saved) - names, key=str)]
        wrong += [
            f"{name!r} is not a whole number of at least 0"
            for name in _COUNTS
            if name in saved and not _is_count(saved[name])
        ]
        wrong += [f"{name!r} is not text" for name in _TEXTS if not isinstance(saved.get(name, ""), str)]
        if wrong:
            raise BadFeedState(
                f"This is no state of a feed: {'; '.join(wrong)}.",
                hint="Give back what state_dict() returned.",
            )
        return cls(**saved)  # type: ignore[arg-type]  # every field's type was just checked

    def check_fits(self, feed: FeedState, samples: int) -> None:
        """Raise BadFeedState unless a feed whose own state is `feed` can go on from here."""
        names = ("root", "split", "seed", "global_batch", "window_chunks")
        other = [
            f"{name} is {getattr(self, name)} in the state and {getattr(feed, name)} here"
            for name in names
            if getattr(self, name) != getattr(feed, name)
        ]
        if other:
            raise BadFeedState(
                f"The state belongs to another feed: {'; '.join(other)}.",
                hint="Resume with the dataset, seed, global batch and window that the run began with; "
                "only the world size may change.",
            )
        if self.format != feed.format:
            raise BadFeedState(
                f"The state is of order format {self.format}; here this dataset has {feed.format}.",
                hint="Resume with the version that saved it.",
            )
        if self.consumed % self.global_batch or self.epoch != self.consumed // samples:
            raise BadFeedState(
                f"The state contradicts itself: {self.consumed} samples consumed in epoch {self.epoch}, with "
                f"{samples} samples an epoch and a global batch of {self.global_batch}.",
                hint="Give back what state_dict() returned.",
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
