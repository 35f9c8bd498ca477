"""Where a mixture is: one number, and what names its order. See docs/design/feed.md, "Mixtures"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stoker.feed.errors import BadFeedState
from stoker.feed.order import MIXTURE_ORDER_FORMAT

_COUNTS: Final = ("format", "seed", "global_batch", "window_chunks", "consumed")
_PARTS: Final = "parts"
_PART: Final = ("root", "split", "thousandths")


@dataclass(frozen=True, slots=True)
class PartState:
    """One part: its dataset, its split, and how many of every 1,000 samples it gives."""

    root: str
    split: str
    thousandths: int


@dataclass(frozen=True, slots=True)
class MixtureState:
    """`consumed` samples of the whole world since the beginning; every part's place follows from it.

    The other fields name the order; a state fits only a mixture that has the same.
    """

    format: int
    parts: tuple[PartState, ...]
    seed: int
    global_batch: int
    window_chunks: int
    consumed: int

    def as_dict(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        parts = [{name: getattr(part, name) for name in _PART} for part in self.parts]
        return {name: getattr(self, name) for name in _COUNTS} | {_PARTS: parts}

    @classmethod
    def from_dict(cls, saved: Mapping[str, object]) -> MixtureState:
        """The state that `as_dict` made. Raises BadFeedState, naming every field that is missing or wrong."""
        wrong = list(_problems(saved))
        if wrong:
            raise BadFeedState(
                f"This is no state of a mixture: {'; '.join(wrong)}.",
                hint="Give back what state_dict() returned.",
            )
        counts = {name: saved[name] for name in _COUNTS}
        parts = tuple(PartState(**part) for part in saved[_PARTS])  # type: ignore[attr-defined]  # just checked
        return cls(parts=parts, **counts)  # type: ignore[arg-type]  # every field's type was just checked

    def check_fits(self, mixture: MixtureState) -> None:
        """Raise BadFeedState unless a mixture whose own state is `mixture` can go on from here."""
        if self.format != MIXTURE_ORDER_FORMAT:
            raise BadFeedState(
                f"The state is of order format {self.format}; mixtures of this version have "
                f"{MIXTURE_ORDER_FORMAT}.",
                hint="Resume with the version that saved it.",
            )
        names = ("seed", "global_batch", "window_chunks")
        other = [
            f"{name} is {getattr(self, name)} in the state and {getattr(mixture, name)} here"
            for name in names
            if getattr(self, name) != getattr(mixture, name)
        ]
        other += _other_parts(self.parts, mixture.parts)
        if other:
            raise BadFeedState(
                f"The state belongs to another mixture: {'; '.join(other)}.",
                hint="Resume with the parts in their order, weights, seed, global batch and window that the "
                "run began with; only the world size may change.",
            )
        if self.consumed % self.global_batch:
            raise BadFeedState(
                f"The state contradicts itself: {self.consumed} samples consumed with a global batch of "
                f"{self.global_batch}.",
                hint="Give back what state_dict() returned.",
            )


def _other_parts(saved: tuple[PartState, ...], mine: tuple[PartState, ...]) -> Iterator[str]:
    if len(saved) != len(mine):
        yield f"there are {len(saved)} parts in the state and {len(mine)} here"
    for number, (one, other) in enumerate(zip(saved, mine, strict=False)):
        for name in _PART:
            if getattr(one, name) != getattr(other, name):
                yield (
                    f"part {number}'s {name} is {getattr(one, name)} in the state and "
                    f"{getattr(other, name)} here"
                )


def _problems(saved: Mapping[str, object]) -> Iterator[str]:
    names = {*_COUNTS, _PARTS}
    yield from (f"{name!r} is missing" for name in sorted(names - set(saved)))
    yield from (f"{name!r} is unknown" for name in sorted(set(saved) - names, key=str))
    for name in _COUNTS:
        if name in saved and not _is_count(saved[name]):
            yield f"{name!r} is not a whole number of at least 0"
    parts = saved.get(_PARTS, [])
    if not isinstance(parts, list | tuple):
        yield f"{_PARTS!r} is no list"
        return
    for number, part in enumerate(parts):
        if not isinstance(part, Mapping) or set(part) != set(_PART):
            yield f"part {number} has not the fields {', '.join(_PART)} and no others"
        elif not (isinstance(part["root"], str) and isinstance(part["split"], str)):
            yield f"part {number}'s root or split is not text"
        elif not _is_count(part["thousandths"]):
            yield f"part {number}'s 'thousandths' is not a whole number of at least 0"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
