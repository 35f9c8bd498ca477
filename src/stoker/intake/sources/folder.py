"""Folders as they are: of text, of records that lie side by side, of pictures in a folder for each class.

See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

from collections.abc import Generator

from stoker.intake.errors import LabelMismatch
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.form import Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.media import LABEL_EXTENSION, extension_of, is_image


def text_items(intake: Intake) -> Generator[Item]:
    """Every file that is UTF-8, whatever its name."""
    for candidate in intake.candidates:
        try:
            data = intake.whole(candidate)
            if data is not None:
                yield from intake.judge.group([intake.judge.text(candidate.path, data)])
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)


def record_items(intake: Intake) -> Generator[Item]:
    """Pictures, clips and UTF-8 files; those that share a name without its extension are one record."""
    for candidate in intake.candidates:
        try:
            data = intake.whole(candidate)
            if data is not None:
                yield from intake.judge.group([intake.judge.item(candidate.path, data)])
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)


def image_folder_items(intake: Intake) -> Generator[Item]:
    """Each picture with a label: the name of the folder that `label_folder` picks from its path.

    A folder at the top that gives no picture is an empty class.
    """
    empty = {f"{folder}/" for folder in intake.files.top_folders()}
    for candidate in intake.candidates:
        try:
            if not is_image(candidate.path):
                intake.judge.not_of_form(candidate.path)
                intake.advance(candidate.size_bytes)
                continue
            label = _class_of(intake, candidate.path)
            data = intake.whole(candidate)
            if data is None:
                continue
            item = intake.judge.item(candidate.path, data)
            stem = item.path[: -len(extension_of(item.path))]
            yield from intake.judge.group([item, Item(stem + LABEL_EXTENSION, label.encode())])
            empty.discard(candidate.path.partition("/")[0] + "/")
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)
    for folder in sorted(empty):
        text = f"Folder {printable(folder)} stands for a class, and no picture was taken from it."
        intake.judge.settle(intake.judge.fault(Reason.EMPTY_CLASS, LabelMismatch, folder, text))


def _class_of(intake: Intake, path: str) -> str:
    folders = path.split("/")[:-1]
    try:
        return folders[intake.spec.label_folder]
    except IndexError:
        intake.advance(0)
        text = f"{printable(path)} lies in no folder that could be its class."
        raise intake.judge.fault(Reason.NO_CLASS, LabelMismatch, path, text) from None
