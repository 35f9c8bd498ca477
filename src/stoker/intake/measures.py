"""What a scan measures beyond the exact recognisers. Plain data. See docs/design/measured.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_SAMPLE: Final = 1_000_000
MAX_CANARIES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Measures:
    """`names`: run the name model near hits. `sample`: windows of the random audit sample, for that model.

    `canaries`: identities planted in copies. `faces`: look for faces in pictures. `limit_s`: how long one
    document of a megabyte may take; a longer one may take longer in proportion.
    """

    names: bool = False
    sample: int = 0
    canaries: int = 0
    faces: bool = False
    limit_s: float = 60.0

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken."""
        if not 0 <= self.sample <= MAX_SAMPLE:
            yield f"sample is {self.sample}; it must be 0 to {MAX_SAMPLE}."
        if self.sample and not self.names:
            yield "an audit sample is looked into by the name model: ask for names too."
        if not 0 <= self.canaries <= MAX_CANARIES:
            yield f"canaries is {self.canaries}; it must be 0 to {MAX_CANARIES}."
        if not 1.0 <= self.limit_s <= 86_400.0:
            yield f"limit_s is {self.limit_s}; it must be 1 to 86400 seconds."

    @property
    def key(self) -> str:
        """Names the measures in the name of a report; empty when none was asked for."""
        parts = []
        if self.names:
            parts.append("n")
        if self.sample:
            parts.append(f"s{self.sample}")
        if self.canaries:
            parts.append(f"c{self.canaries}")
        if self.faces:
            parts.append("f")
        return "".join(parts)
