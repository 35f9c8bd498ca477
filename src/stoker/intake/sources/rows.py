"""A row of a table becomes items: `FILE/000000017.txt`, `.jpg`, `.cls` and so on, all of them or none.

See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.intake.errors import BadMedia, LabelMismatch, MissingColumn
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.media import (
    AUDIO_EXTENSIONS,
    CLASS_EXTENSION,
    EXTRA_EXTENSION,
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    TEXT_EXTENSION,
    kind_of,
)
from stoker.spec.source import ImportSpec

ROW_DIGITS: Final = 9


class Role(enum.StrEnum):
    """What a column is for."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    CLASS = "class"
    LABEL = "label"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a row: UTF-8 for text and label, decimal digits for a class, JSON for extra columns."""

    role: Role
    data: bytes


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is which; empty where there is none."""

    text: str = ""
    image: str = ""
    audio: str = ""
    label: str = ""
    extra: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """The columns that must be there."""
        return tuple(name for name in (self.text, self.image, self.audio, self.label, *self.extra) if name)

    def sentence(self) -> str:
        """For the person who imports."""
        parts = [
            f"{role} from {name!r}"
            for role, name in (
                ("text", self.text),
                ("image", self.image),
                ("audio", self.audio),
                ("label", self.label),
                ("other columns", ", ".join(self.extra)),
            )
            if name
        ]
        return "; ".join(parts)


class NoSuchColumn(Exception):
    """No column can be chosen; `text` says why, without the place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def pick_columns(spec: ImportSpec, present: Collection[str], *, media: bool) -> Columns:
    """The columns that the settings name; where they name none, those called text, image, audio and label.

    `media` says whether the form can hold bytes. Raises NoSuchColumn.
    """
    if any(spec.columns()):
        chosen = Columns(
            spec.text_column, spec.image_column, spec.audio_column, spec.label_column, spec.extra_columns
        )
        for name in chosen.names():
            if name not in present:
                raise _lacks(name, present)
        if not media and (chosen.image or chosen.audio):
            raise NoSuchColumn("it is text, so no column of it can hold pictures or clips")
        return chosen
    chosen = Columns(
        text="text" if "text" in present else "",
        image="image" if media and "image" in present else "",
        audio="audio" if media and "audio" in present else "",
        label="label" if "label" in present else "",
    )
    if not (chosen.text or chosen.image or chosen.audio):
        raise _lacks("text", present)
    return chosen


def choose_columns(intake: Intake, place: str, present: Collection[str]) -> Columns:
    """`pick_columns` for a form of text, and what was picked is said. Raises NotTaken."""
    try:
        chosen = pick_columns(intake.spec, present, media=False)
    except NoSuchColumn as error:
        raise missing_column(intake, place, error.text) from error
    intake.say(f"Columns: {chosen.sentence()}.")
    return chosen


def missing_column(intake: Intake, place: str, text: str) -> NotTaken:
    """A table without a column that the import needs."""
    return intake.judge.fault(
        Reason.MISSING_COLUMN,
        MissingColumn,
        place,
        f"{printable(place)}: {text}.",
        "Name a column that is there (text_column, image_column, audio_column, label_column), or import the "
        'files as they are with form = "folder".',
    )


def _lacks(name: str, present: Collection[str]) -> NoSuchColumn:
    there = ", ".join(sorted(printable(str(each)[:40]) for each in list(present)[:20])) or "none"
    return NoSuchColumn(f"there is no column {name!r}; it has {there}")


def row_place(candidate: Candidate, row: int) -> str:
    """The name that all items of a row share."""
    return f"{candidate.path}/{row:0{ROW_DIGITS}d}"


def row_items(intake: Intake, candidate: Candidate, row: int, cells: Sequence[Cell]) -> Iterator[Item]:
    """The items of one row, when all of them can be taken. Raises NotTaken."""
    place = row_place(candidate, row)
    items = [_item(intake, place, cell) for cell in cells]
    yield from intake.judge.group(items)


def _item(intake: Intake, place: str, cell: Cell) -> Item:
    judge, data = intake.judge, cell.data
    if cell.role is Role.TEXT:
        return judge.text(place + TEXT_EXTENSION, data)
    if cell.role is Role.EXTRA:
        return judge.text(place + EXTRA_EXTENSION, data)
    if cell.role is Role.LABEL:
        if not data.strip():
            text = f"{printable(place)} has an empty label."
            raise judge.fault(Reason.BAD_LABEL, LabelMismatch, place, text)
        return judge.text(place + LABEL_EXTENSION, data)
    if cell.role is Role.CLASS:
        return judge.item(place + CLASS_EXTENSION, data)
    wanted = IMAGE_EXTENSIONS if cell.role is Role.IMAGE else AUDIO_EXTENSIONS
    extension = kind_of(data)
    if extension is None or extension not in wanted:
        text = f"The {cell.role} of {printable(place)} is of no known kind."
        raise judge.fault(Reason.NOT_MEDIA, BadMedia, place, text)
    return judge.item(place + extension, data)


def label_cell(value: int | str) -> Cell:
    """A label as a class number or a name."""
    if isinstance(value, int):
        return Cell(Role.CLASS, str(int(value)).encode())
    return Cell(Role.LABEL, value.encode())
