"""What an import did not take, or took with a remark: counted by reason, with a few examples.

See docs/design/intake.md, "Import".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

_EXAMPLES: Final = 5


class Reason(enum.StrEnum):
    """Why something of the source was not taken; the last three are remarks on what was taken."""

    EXCLUDED = "excluded"
    EXCLUDED_FOLDER = "excluded_folder"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    UNREADABLE = "unreadable"
    SPECIAL_FILE = "special_file"
    LINK = "link"
    OUTSIDE_LINK = "outside_link"
    NAME_NOT_UTF8 = "name_not_utf8"
    TOO_DEEP = "too_deep"
    RESERVED_NAME = "reserved_name"
    NOT_OF_FORM = "not_of_form"
    UNSAFE_NAME = "unsafe_name"
    DUPLICATE = "duplicate"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    TOO_MUCH = "too_much"
    WORKER_LOST = "worker_lost"
    BAD_ROW = "bad_row"
    MISSING_COLUMN = "missing_column"
    BAD_LABEL = "bad_label"
    NO_CLASS = "no_class"
    EMPTY_CLASS = "empty_class"
    NO_CLIP = "no_clip"
    NO_TRANSCRIPT = "no_transcript"
    NOT_MEDIA = "not_media"
    BAD_MEDIA = "bad_media"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_SAMPLES = "too_many_samples"
    CASE_TWIN = "case_twin"
    OTHER_EXTENSION = "other_extension"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many entries one reason kept out, with a few of their paths, made safe to print."""

    reason: Reason
    entries: int
    examples: tuple[str, ...]


class LeftOutTally:
    """Counts what is left out as the import meets it."""

    def __init__(self) -> None:
        self._counts: dict[Reason, int] = {}
        self._examples: dict[Reason, list[str]] = {}

    def add(self, reason: Reason, path: str) -> None:
        """One more entry at `path`, which may go on with a row, a member or an offset."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(printable(path))

    @property
    def entries(self) -> int:
        """How many, for whatever reason."""
        return sum(self._counts.values())

    def counts(self) -> dict[str, int]:
        """Entries by reason, without any path: what the ledger keeps."""
        return {reason.value: self._counts[reason] for reason in sorted(self._counts)}

    def summary(self) -> tuple[LeftOut, ...]:
        """Entries by reason with examples, for the person who imports."""
        return tuple(
            LeftOut(reason, self._counts[reason], tuple(self._examples[reason]))
            for reason in sorted(self._counts)
        )


def printable(path: str) -> str:
    """The path without control characters or bytes that are not UTF-8, at most 200 characters."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path[:200])
    return shown + ("…" if len(path) > 200 else "")
