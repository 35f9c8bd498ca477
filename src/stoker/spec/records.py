"""The records section of a recipe: a source of pictures, clips, texts and labels, aligned record by record.

Meaning of every field: docs/design/intake.md, "Records".
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.spec.source import OnFault


class RecordPart(enum.StrEnum):
    """What a record may hold; each is one field of the dataset."""

    IMAGE = "image"
    AUDIO = "audio"
    TEXT = "text"
    LABEL = "label"


class TextAs(enum.StrEnum):
    """How texts of records are kept: as tokens of a tokenizer trained on them, or as UTF-8."""

    TOKENS = "tokens"
    UTF8 = "utf8"


@dataclass(frozen=True, slots=True)
class RecordsSpec:
    """Without `parts` the recipe is one of text. With them, every record has all of them, or is a fault.

    `decode` tries every picture and clip in a worker of `worker_bytes` memory that is killed after `worker_s`
    seconds; at most `max_pixels`, and `max_samples` over all channels, are decoded. Faults are left out and
    counted, or the first one stops the preparation. `strip_metadata` takes out of pictures and clips what is
    no pixel or sample; `blur_faces` blurs the faces that are found. A record of which either cannot be done
    for certain is held back, whatever `on_fault` says.
    """

    parts: tuple[RecordPart, ...] = ()
    text_as: TextAs = TextAs.TOKENS
    on_fault: OnFault = OnFault.LEAVE_OUT
    decode: bool = True
    max_pixels: int = 64_000_000
    max_samples: int = 100_000_000
    worker_bytes: int = 2 << 30
    worker_s: float = 30.0
    strip_metadata: bool = True
    blur_faces: bool = False
    records_per_block: int = 64
    blocks_per_shard: int = 64

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the field and its value."""
        twice = sorted({part for part in self.parts if self.parts.count(part) > 1})
        if twice:
            yield f"records.parts names {', '.join(twice)} more than once."
        for name, most in (
            ("max_pixels", 1 << 31),
            ("max_samples", 1 << 33),
            ("records_per_block", 1 << 20),
            ("blocks_per_shard", 1 << 20),
        ):
            if not 1 <= getattr(self, name) <= most:
                yield f"records.{name} is {getattr(self, name)}; it must be 1 to {most}."
        if not 1 << 26 <= self.worker_bytes <= 1 << 40:
            yield f"records.worker_bytes is {self.worker_bytes}; it must be 64 MiB to 1 TiB."
        if not 0.1 <= self.worker_s <= 3600.0:
            yield f"records.worker_s is {self.worker_s}; it must be 0.1 to 3600 seconds."

    @property
    def makes_tokens(self) -> bool:
        """Whether a tokenizer is needed."""
        return RecordPart.TEXT in self.parts and self.text_as is TextAs.TOKENS

    @property
    def records_per_shard(self) -> int:
        """Of every shard of a split but its last."""
        return self.records_per_block * self.blocks_per_shard
