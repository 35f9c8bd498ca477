"""How a run reads records whose fields are files: pictures and clips. See docs/design/records-run.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadingSpec:
    """`clip_s` is the length that every clip gets, with silence behind its end; a longer one is refused, or
    cut there when `cut_clips` is set. `decoders` processes a rank decode files, each of them killed when one
    takes more than `file_s` seconds.
    """

    clip_s: float = 2.0
    cut_clips: bool = False
    decoders: int = 1
    file_s: float = 30.0

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the key and its value."""
        if not 0.01 <= self.clip_s <= 3600.0:
            yield f"clip_s is {self.clip_s}; it must be 0.01 to 3600 seconds."
        if not 1 <= self.decoders <= 512:
            yield f"decoders is {self.decoders}; it must be 1 to 512."
        if not 0.1 <= self.file_s <= 3600.0:
            yield f"file_s is {self.file_s}; it must be 0.1 to 3600 seconds."
