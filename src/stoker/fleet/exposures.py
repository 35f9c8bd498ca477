"""What a run's model knows by heart of its data, from the events, and whether it may be released.

See docs/design/train.md, "Exposure".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stoker.core.events import Event, EventKind


@dataclass(frozen=True, slots=True)
class ExposureFigure:
    """How well the model knows the canary of `dataset`: `bits` of 128, `rank` among `candidates` and itself.

    `known_by_heart`: the bits are above `limit_bits`, so the model is not to be released.
    """

    dataset: str
    bits: float
    rank: int
    candidates: int
    limit_bits: float
    known_by_heart: bool

    def sentence(self) -> str:
        """The figure for people."""
        verdict = (
            "KNOWN BY HEART, not to be released"
            if self.known_by_heart
            else f"not known by heart (limit {self.limit_bits:g})"
        )
        place = f"place {self.rank} of {self.candidates + 1}"
        return f"exposure of the canary of {self.dataset}: {self.bits:.1f} bits, {place}: {verdict}"


def exposures_of(events: Iterable[Event], limit_bits: float) -> tuple[ExposureFigure, ...]:
    """The newest exposure of each dataset, in the order in which they came up."""
    newest: dict[str, ExposureFigure] = {}
    for event in events:
        if event.kind is EventKind.EXPOSURE:
            bits, name = event.number("bits"), event.text("dataset")
            newest[name] = ExposureFigure(
                dataset=name,
                bits=bits,
                rank=int(event.number("rank_among")),
                candidates=int(event.number("candidates")),
                limit_bits=limit_bits,
                known_by_heart=not bits <= limit_bits,
            )
    return tuple(newest.values())
