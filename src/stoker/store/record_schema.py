"""What each record of a dataset holds, and how many lie together. See docs/design/store.md, "Superblock"."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stoker.core.canonical import JsonValue
from stoker.store.errors import BadLabel

RECORDS_FORM: Final = "records"
"""What the superblock's schema says it is; a schema without a form is one of fixed-length samples."""

MAX_FIELDS: Final = 64
MAX_BLOCK_BYTES: Final = 1 << 30
"""What one block may hold: 1 GiB, so that no head makes a reader allocate more."""

_MAX_SHAPE: Final = 8
_MAX_RECORDS_PER_BLOCK: Final = 1 << 20
_MAX_BLOCKS_PER_SHARD: Final = 1 << 20
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MEDIA = re.compile(r"([a-z]+/[a-z0-9.+*-]{1,40})?")


class FieldKind(enum.StrEnum):
    """What a field of a record is: an encoded file or text, tokens of any number, or numbers of one shape."""

    BYTES = "bytes"
    TOKENS = "tokens"
    NUMBER = "number"


_DTYPES: Final = {
    FieldKind.BYTES: ("uint8",),
    FieldKind.TOKENS: ("uint16", "uint32"),
    FieldKind.NUMBER: ("uint8", "uint16", "int32", "int64", "float32"),
}


@dataclass(frozen=True, slots=True)
class RecordField:
    """One field of every record.

    BYTES has dtype uint8 and may say its media type, such as "image/jpeg", "image/*" or "text/utf-8". TOKENS
    has uint16 or uint32. NUMBER has uint8, uint16, int32, int64 or float32, and a shape, () for one number.
    """

    name: str
    kind: FieldKind
    dtype: str
    shape: tuple[int, ...] = ()
    media: str = ""

    def __post_init__(self) -> None:
        """Raises BadLabel, naming the field."""
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            raise BadLabel(
                f"A field cannot be called {str(self.name)[:80]!a}.",
                hint="Names begin with a-z and go on with a-z, 0-9 and '_', 63 characters at most.",
            )
        if not isinstance(self.kind, FieldKind) or self.dtype not in _DTYPES[self.kind]:
            known = ", ".join(_DTYPES.get(self.kind, ())) or "no type"
            raise BadLabel(f"Field {self.name!r} of kind {str(self.kind)[:20]!a} has {known}.")
        sizes = self.shape
        if not isinstance(sizes, tuple) or any(type(size) is not int or size < 1 for size in sizes):
            raise BadLabel(f"Field {self.name!r} has a shape that is no row of positive whole numbers.")
        if (sizes and self.kind is not FieldKind.NUMBER) or len(sizes) > _MAX_SHAPE:
            raise BadLabel(f"Field {self.name!r}: only numbers have a shape, of {_MAX_SHAPE} sizes at most.")
        if math.prod(sizes) * self.itemsize > MAX_BLOCK_BYTES:
            raise BadLabel(f"One value of field {self.name!r} does not fit into a block.")
        if not isinstance(self.media, str) or _MEDIA.fullmatch(self.media) is None:
            raise BadLabel(f"Field {self.name!r} has no media type such as 'image/jpeg'.")
        if self.media and self.kind is not FieldKind.BYTES:
            raise BadLabel(f"Field {self.name!r}: only bytes have a media type.")

    @property
    def itemsize(self) -> int:
        """The bytes of one value."""
        return self.stored.itemsize

    @property
    def stored(self) -> np.dtype[Any]:
        """The little-endian type on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def ragged(self) -> bool:
        """Whether records have unequal numbers of values."""
        return self.kind is not FieldKind.NUMBER

    @property
    def row_bytes(self) -> int:
        """What one record takes in a column of numbers."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True)
class RecordSchema:
    """Records of these fields, `records_per_block` in every block but a split's last.

    A shard has `blocks_per_shard` blocks; only a split's last shard may have fewer.
    """

    fields: tuple[RecordField, ...]
    records_per_block: int
    blocks_per_shard: int
    chunk_log2: int

    def __post_init__(self) -> None:
        """Raises BadLabel."""
        names = [field.name for field in self.fields]
        if not 1 <= len(names) <= MAX_FIELDS or len(set(names)) != len(names):
            raise BadLabel(f"A record has 1 to {MAX_FIELDS} fields, each with a name of its own.")
        counts = (
            ("records_per_block", self.records_per_block, 1, _MAX_RECORDS_PER_BLOCK),
            ("blocks_per_shard", self.blocks_per_shard, 1, _MAX_BLOCKS_PER_SHARD),
            ("chunk_log2", self.chunk_log2, 14, 22),
        )
        for name, count, least, most in counts:
            if type(count) is not int or not least <= count <= most:
                raise BadLabel(
                    f"{name} is {str(count)[:30]}; it is a whole number from {least} to {most}.",
                    hint="Use RecordSchema.fit.",
                )
        if self.records_per_block * self.least_record_bytes > MAX_BLOCK_BYTES:
            raise BadLabel(
                f"{self.records_per_block} records of at least {self.least_record_bytes} bytes do not fit "
                f"into a block of {MAX_BLOCK_BYTES}.",
                hint="Put fewer records into a block.",
            )

    @classmethod
    def fit(
        cls,
        fields: Sequence[RecordField],
        *,
        record_bytes: float,
        block_bytes: int = 1 << 20,
        shard_bytes: int = 1 << 28,
        chunk_log2: int = 16,
    ) -> RecordSchema:
        """The schema whose blocks have about `block_bytes` and shards about `shard_bytes`.

        `record_bytes` is the mean size of a record with all its fields, at least 1.
        """
        per_block = max(1, min(_MAX_RECORDS_PER_BLOCK, int(block_bytes / max(1.0, record_bytes))))
        block = max(1.0, per_block * record_bytes)
        per_shard = max(1, min(_MAX_BLOCKS_PER_SHARD, int(shard_bytes / block)))
        return cls(tuple(fields), per_block, per_shard, chunk_log2)

    @property
    def records_per_shard(self) -> int:
        """Of every shard of a split but its last."""
        return self.records_per_block * self.blocks_per_shard

    @property
    def least_record_bytes(self) -> int:
        """What a record takes at least: its numbers, and an offset for each field of unequal length."""
        return sum(8 if field.ragged else field.row_bytes for field in self.fields)

    def field(self, name: str) -> RecordField | None:
        """The field of this name."""
        return next((field for field in self.fields if field.name == name), None)

    def rows(self, block: int, records: int) -> int:
        """How many of a shard's `records` lie in its block `block`."""
        return min(self.records_per_block, records - block * self.records_per_block)

    def blocks(self, records: int) -> int:
        """How many blocks `records` records take."""
        return -(-records // self.records_per_block)

    def to_json(self) -> dict[str, JsonValue]:
        """The schema as the superblock holds it."""
        return {
            "form": RECORDS_FORM,
            "fields": [
                {
                    "name": field.name,
                    "kind": field.kind.value,
                    "dtype": field.dtype,
                    "shape": list(field.shape),
                    "media": field.media,
                }
                for field in self.fields
            ],
            "records_per_block": self.records_per_block,
            "blocks_per_shard": self.blocks_per_shard,
            "chunk_log2": self.chunk_log2,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> RecordSchema:
        """The schema that `to_json` made. Raises BadLabel, KeyError, TypeError, ValueError."""
        rest = {name: value for name, value in raw.items() if name not in ("form", "fields")}
        fields = []
        for each in raw["fields"]:
            named = dict(each)
            kind, shape = FieldKind(named.pop("kind")), tuple(named.pop("shape"))
            fields.append(RecordField(kind=kind, shape=shape, **named))
        return cls(fields=tuple(fields), **rest)
