"""The forms by name, and which one a source has when the settings leave that open.

See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Final

from stoker.intake.sources import csv_rows, json_lines, parquet, tar
from stoker.intake.sources.audio_folder import ENDING as TRANSCRIPT_ENDING
from stoker.intake.sources.audio_folder import audio_folder_items
from stoker.intake.sources.csv_rows import csv_items
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.folder import image_folder_items, record_items, text_items
from stoker.intake.sources.form import SourceForm
from stoker.intake.sources.hugging_face import INFO, STATE, hugging_face_items
from stoker.intake.sources.json_lines import json_lines_items
from stoker.intake.sources.media import (
    AUDIO_EXTENSIONS,
    CLASS_EXTENSION,
    EXTRA_EXTENSION,
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    TEXT_EXTENSION,
    extension_of,
    is_audio,
    is_image,
)
from stoker.intake.sources.parquet import parquet_items
from stoker.intake.sources.tar import tar_items
from stoker.spec.source import Form, ImportSpec

FORMS: Final[Mapping[Form, SourceForm]] = {
    Form.FOLDER: text_items,
    Form.RECORDS: record_items,
    Form.TAR: tar_items,
    Form.JSON_LINES: json_lines_items,
    Form.CSV: csv_items,
    Form.PARQUET: parquet_items,
    Form.IMAGE_FOLDER: image_folder_items,
    Form.AUDIO_FOLDER: audio_folder_items,
    Form.HUGGING_FACE: hugging_face_items,
}

_BESIDE: Final = (
    "readme*",
    "licen[cs]e*",
    "*.md",
    ".git*",
    "_success",
    "*.crc",
    "*sha256*",
    "*md5*",
    "dataset_infos.json",
    ".ds_store",
    "thumbs.db",
)
"""Files that lie beside data and do not say what form it has."""

_CONTAINERS: Final = (
    (Form.TAR, tar.ENDINGS, "every file is a tar archive"),
    (Form.PARQUET, parquet.ENDINGS, "every file is a Parquet file"),
    (Form.JSON_LINES, json_lines.ENDINGS, "every file is one of JSON lines"),
    (Form.CSV, csv_rows.ENDINGS, "every file is a table"),
)
CONTAINER_ENDINGS: Final = tuple(ending for _, endings, _ in _CONTAINERS for ending in endings)
"""A single file may be imported when its name ends so."""

_RECORD_EXTENSIONS: Final = frozenset(
    (
        *IMAGE_EXTENSIONS,
        *AUDIO_EXTENSIONS,
        TEXT_EXTENSION,
        CLASS_EXTENSION,
        LABEL_EXTENSION,
        EXTRA_EXTENSION,
    )
)


def choose_form(spec: ImportSpec, candidates: Sequence[Candidate]) -> tuple[Form, str]:
    """The form, and why, as the rest of a sentence. A form other than text needs every file to fit it."""
    if spec.form is not Form.AUTO:
        return spec.form, "the settings say so"
    paths = [candidate.path for candidate in candidates]
    names = {candidate.name for candidate in candidates}
    if {STATE, INFO} <= names and any(path.endswith(".arrow") for path in paths):
        return Form.HUGGING_FACE, f"{STATE} and {INFO} lie beside Arrow files"
    bare = [
        candidate.path
        for candidate in candidates
        if not any(fnmatch.fnmatch(candidate.name.lower(), pattern) for pattern in _BESIDE)
    ]
    if not bare:
        return Form.FOLDER, "no other form fits its files"
    for form, endings, why in _CONTAINERS:
        if all(path.lower().endswith(endings) for path in bare):
            return form, why
    if all(is_image(path) and "/" in path for path in bare):
        return Form.IMAGE_FOLDER, "every file is a picture in a folder"
    if any(is_audio(path) for path in bare) and (
        spec.transcripts or any(path.endswith(TRANSCRIPT_ENDING) for path in bare)
    ):
        return Form.AUDIO_FOLDER, "clips lie with their transcripts"
    beside_media = len(bare) > 1 and any(is_image(path) or is_audio(path) for path in bare)
    if beside_media and all(extension_of(path) in _RECORD_EXTENSIONS for path in bare):
        return Form.RECORDS, "pictures or clips lie with files of records"
    return Form.FOLDER, "no other form fits its files"
