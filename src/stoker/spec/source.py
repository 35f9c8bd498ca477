"""Import settings: what is taken from where, in which form, and what bad input gets.

Meaning and limits of every field: docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field


class NotText(enum.StrEnum):
    """What happens to a file that is not UTF-8: left out and counted, or the whole import stops."""

    LEAVE_OUT = "leave_out"
    REFUSE = "refuse"


class OnFault(enum.StrEnum):
    """What happens to an entry of the source that cannot be taken: the import stops, or it is left out."""

    REFUSE = "refuse"
    LEAVE_OUT = "leave_out"


class Twins(enum.StrEnum):
    """What happens to a name that differs from an earlier one only in case."""

    TAKE = "take"
    LEAVE_OUT = "leave_out"
    REFUSE = "refuse"


class Form(enum.StrEnum):
    """How the files of a source hold what is to be taken."""

    AUTO = "auto"
    FOLDER = "folder"
    RECORDS = "records"
    TAR = "tar"
    JSON_LINES = "json_lines"
    CSV = "csv"
    PARQUET = "parquet"
    IMAGE_FOLDER = "image_folder"
    AUDIO_FOLDER = "audio_folder"
    HUGGING_FACE = "hugging_face"


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """What one file of a source may claim or become before it counts as broken or as an attack.

    `ratio` bounds what a file gives by how many times its size, past the first 64 MiB. `worker_bytes` is
    the memory that a process may take that parses Parquet or Arrow, `worker_s` how long it may be silent.
    """

    pixels: int = 1 << 28
    audio_samples: int = 1 << 29
    ratio: int = 200
    items_per_file: int = 10_000_000
    row_group_bytes: int = 1 << 30
    worker_bytes: int = 3 << 30
    worker_s: float = 300.0

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken."""
        for name, value, highest in (
            ("pixels", self.pixels, 1 << 34),
            ("audio_samples", self.audio_samples, 1 << 36),
            ("ratio", self.ratio, 1 << 20),
            ("items_per_file", self.items_per_file, 1 << 32),
            ("row_group_bytes", self.row_group_bytes, 1 << 36),
            ("worker_bytes", self.worker_bytes, 1 << 40),
        ):
            if not 1 <= value <= highest:
                yield f"{name} is {value}; it must be 1 to {highest}."
        if not 0.0 < self.worker_s <= 86_400.0:
            yield f"worker_s is {self.worker_s}; it must be more than 0, at most 86400."


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """What is taken from a source. Patterns are shell globs on the path inside it; `*` also matches `/`.

    A folder that `exclude` matches is not entered. `unreadable` covers files and folders that cannot be
    opened, `outside_links` symbolic links whose target is not inside the folder, `not_text` files that are
    neither UTF-8 nor, where the form takes media, a known kind of image or audio. `on_fault` covers what is
    broken: an archive, a row, a label, a picture's claim. Empty column names are chosen by what is there.
    `label_folder` says which folder of an image's path is its class: 0 the first, -1 the one that holds it.
    `classes` is how many classes there are, 0 when that is not known.
    """

    form: Form = Form.AUTO
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    not_text: NotText = NotText.LEAVE_OUT
    unreadable: OnFault = OnFault.REFUSE
    outside_links: OnFault = OnFault.REFUSE
    on_fault: OnFault = OnFault.REFUSE
    same_but_case: Twins = Twins.TAKE
    max_file_bytes: int = 64 * 1024 * 1024
    text_column: str = ""
    image_column: str = ""
    audio_column: str = ""
    label_column: str = ""
    extra_columns: tuple[str, ...] = ()
    file_column: str = "file"
    delimiter: str = ""
    transcripts: str = ""
    label_folder: int = 0
    classes: int = 0
    parquet_key_file: str = ""
    limits: ImportLimits = field(default_factory=ImportLimits)

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken."""
        if not self.include:
            yield "include is empty, so nothing would be taken; ['*'] takes everything."
        if not 1 <= self.max_file_bytes <= 256 * 1024 * 1024:
            yield f"max_file_bytes is {self.max_file_bytes}; it must be 1 to 268435456 (256 MiB)."
        if self.delimiter and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            yield f"delimiter is {self.delimiter!r}; expected one character, no quote and no line end."
        if self.transcripts and self.form not in (Form.AUTO, Form.AUDIO_FOLDER):
            yield f"transcripts names a table of an audio folder, but form is {self.form}."
        if not self.file_column:
            yield "file_column is empty; it must name the column of file names in the transcripts table."
        if not -8 <= self.label_folder <= 8:
            yield f"label_folder is {self.label_folder}; it must be -8 to 8."
        if not 0 <= self.classes < 1 << 31:
            yield f"classes is {self.classes}; it must be 0 (not known) to 2147483647."
        chosen = [name for name in self.columns() if name]
        twice = sorted({name for name in chosen if chosen.count(name) > 1})
        if twice:
            yield f"the columns {', '.join(twice)} are named more than once."

    def columns(self) -> tuple[str, ...]:
        """Every column that the settings name, with empty strings for the roles that they leave open."""
        return (
            self.text_column,
            self.image_column,
            self.audio_column,
            self.label_column,
            *self.extra_columns,
        )
