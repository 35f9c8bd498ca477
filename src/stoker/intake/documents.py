"""Which items of a source are documents: text that stands for itself, not pictures, clips and their labels.

A preparation of text reads documents only. See docs/design/intake.md, "Items".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stoker.intake.source_index import SourceFile
from stoker.intake.sources.forms import CONTAINER_ENDINGS
from stoker.intake.sources.media import (
    AUDIO_EXTENSIONS,
    CLASS_EXTENSION,
    EXTRA_EXTENSION,
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    TEXT_EXTENSION,
    extension_of,
)

_MEDIA: Final = frozenset((*IMAGE_EXTENSIONS, *AUDIO_EXTENSIONS))
_BESIDE: Final = frozenset((CLASS_EXTENSION, LABEL_EXTENSION, EXTRA_EXTENSION))
_CONTAINERS: Final = tuple(f"{ending}/" for ending in (*CONTAINER_ENDINGS, ".arrow"))


def documents(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """The documents among `files`, in their order.

    A picture or clip is none, and a class, label or table of other columns is none where it goes with a
    picture or clip, or with a text of the same row or archive.
    """
    kept = tuple(files)
    with_media: set[str] = set()
    with_text: set[str] = set()
    for file in kept:
        extension = extension_of(file.path)
        if extension in _MEDIA:
            with_media.add(record_key(file.path))
        elif extension == TEXT_EXTENSION and _in_container(file.path):
            with_text.add(record_key(file.path))
    return tuple(file for file in kept if _is_document(file.path, with_media, with_text))


def record_key(path: str) -> str:
    """What the files of one record share: the path without its extension."""
    return path[: len(path) - len(extension_of(path))]


def _is_document(path: str, with_media: set[str], with_text: set[str]) -> bool:
    extension = extension_of(path)
    if extension in _MEDIA:
        return False
    key = record_key(path)
    return extension not in _BESIDE or (key not in with_media and key not in with_text)


def _in_container(path: str) -> bool:
    folder = path.lower()[: path.rfind("/") + 1]
    return any(ending in folder for ending in _CONTAINERS)
