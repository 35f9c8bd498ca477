"""k-anonymity and l-diversity of rows. Pure; keeps hashes of values under a key of its own, never values.

Samarati and Sweeney, "Protecting privacy when disclosing information: k-anonymity and its enforcement through
generalization and suppression", 1998. Machanavajjhala, Kifer, Gehrke and Venkitasubramaniam, "l-diversity:
privacy beyond k-anonymity", TKDD 1 (2007), definitions 4.1 (entropy) and distinct l-diversity.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_HASH_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Column:
    """A quasi-identifier, and how coarse it is taken: `prefix` characters, or bands of `band`; 0: as is."""

    name: str
    prefix: int = 0
    band: int = 0

    @classmethod
    def parse(cls, text: str) -> Column:
        """`name`, `name:3` for its first three characters, `name/10` for bands of ten. Raises ValueError."""
        for mark, word in ((":", "prefix"), ("/", "band")):
            name, found, size = text.rpartition(mark)
            if found and size.isdecimal() and name:
                if int(size) < 1:
                    raise ValueError(f"{text!r} makes nothing coarser")
                return cls(name, **{word: int(size)})
        if not text:
            raise ValueError("a column without a name")
        return cls(text)

    def of(self, value: str) -> str:
        """The value as coarse as it is taken; what is no number keeps itself where bands are asked for."""
        text = value.strip()
        if self.prefix:
            return text[: self.prefix]
        if self.band:
            try:
                number = float(text.replace(",", "."))
            except ValueError:
                return text
            return str(math.floor(number / self.band)) if math.isfinite(number) else text
        return text

    def __str__(self) -> str:
        return (
            f"{self.name}:{self.prefix}"
            if self.prefix
            else f"{self.name}/{self.band}"
            if self.band
            else self.name
        )


@dataclass(frozen=True, slots=True)
class Diversity:
    """Of one sensitive column: the least of distinct values, and of the entropy's exponential, in any class.

    `rows_below` lie in classes with fewer distinct values than were asked for.
    """

    distinct_l: int
    entropy_l: float
    rows_below: int


@dataclass(frozen=True, slots=True)
class Anonymity:
    """What the rows come to. `sizes`: how many classes have 1, 2, 3 to 4, 5 to 9, … rows, by lower bound."""

    rows: int
    classes: int
    k: int
    rows_below: int
    single_rows: int
    sizes: Mapping[str, int]
    diversity: Mapping[str, Diversity]


@dataclass(slots=True)
class _Class:
    rows: int = 0
    values: list[dict[bytes, int]] = field(default_factory=list)


class Anonymising:
    """Counts rows as they come; `columns` tell people apart, `sensitive` columns are to be diverse."""

    def __init__(self, columns: Sequence[Column], sensitive: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._sensitive = tuple(sensitive)
        self._key = secrets.token_bytes(32)
        self._classes: dict[bytes, _Class] = {}
        self.rows = 0

    def add(self, row: Mapping[str, str]) -> None:
        """One more row, which has all the columns."""
        name = self._hash("\0".join(f"{len(text := one.of(row[one.name]))}:{text}" for one in self._columns))
        found = self._classes.get(name)
        if found is None:
            found = self._classes[name] = _Class(values=[{} for _ in self._sensitive])
        found.rows += 1
        self.rows += 1
        for counts, column in zip(found.values, self._sensitive, strict=True):
            value = self._hash(row[column].strip())
            counts[value] = counts.get(value, 0) + 1

    def _hash(self, text: str) -> bytes:
        data = text.encode("utf-8", errors="surrogatepass")
        return hashlib.blake2b(data, digest_size=_HASH_BYTES, key=self._key).digest()

    def result(self, least_k: int, least_l: int) -> Anonymity:
        """What was counted, held against these."""
        sizes: dict[str, int] = {}
        for one in self._classes.values():
            name = _size_name(one.rows)
            sizes[name] = sizes.get(name, 0) + 1
        return Anonymity(
            rows=self.rows,
            classes=len(self._classes),
            k=min((one.rows for one in self._classes.values()), default=0),
            rows_below=sum(one.rows for one in self._classes.values() if one.rows < least_k),
            single_rows=sum(one.rows == 1 for one in self._classes.values()),
            sizes={name: sizes[name] for name in _SIZE_NAMES if name in sizes},
            diversity={
                column: self._diversity(index, least_l) for index, column in enumerate(self._sensitive)
            },
        )

    def _diversity(self, index: int, least_l: int) -> Diversity:
        classes = [(one.rows, one.values[index]) for one in self._classes.values()]
        return Diversity(
            distinct_l=min((len(values) for _, values in classes), default=0),
            entropy_l=round(min((_effective(values, rows) for rows, values in classes), default=0.0), 6),
            rows_below=sum(rows for rows, values in classes if len(values) < least_l),
        )


def _effective(values: Mapping[bytes, int], rows: int) -> float:
    """The exponential of the entropy: how many equally frequent values would be as diverse."""
    return math.exp(-sum(count / rows * math.log(count / rows) for count in values.values()))


_BOUNDS: Final = ((1, 1), (2, 2), (3, 4), (5, 9), (10, 19), (20, 99), (100, 0))
_SIZE_NAMES: Final = tuple(
    f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more" for low, high in _BOUNDS
)


def _size_name(rows: int) -> str:
    return next(
        name for name, (low, high) in zip(_SIZE_NAMES, _BOUNDS, strict=True) if rows <= high or not high
    )
