"""Searching files for plaintext that must not be there, in the forms in which it could hide."""

from __future__ import annotations

import base64
import contextlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ENCODINGS: Final = ("utf-16-le", "utf-16-be", "utf-32-le")


@dataclass(frozen=True, slots=True)
class Hit:
    """A file that holds a needle: which needle, in what form, at which byte."""

    path: Path
    needle: str
    form: str
    offset: int


def forms_of(secret: bytes) -> dict[str, bytes]:
    """`secret` as it stands, in hexadecimal, in base64 at its three alignments, and as wide characters."""
    forms = {"raw": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        # Characters that mix in neighbouring bytes are cut away: the rest is the same in any context.
        start = (0, 2, 3)[shift]
        end = len(encoded) - (4 if (len(secret) + shift) % 3 else 0)
        forms[f"base64+{shift}"] = encoded[start:end]
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return forms
    for encoding in _ENCODINGS:
        forms[encoding] = text.encode(encoding)
    return forms


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search covered, so that "nothing found" can be weighed."""

    files: int
    content_bytes: int
    hits: tuple[Hit, ...]
    unreadable: tuple[Path, ...]


def search(
    folders: Iterable[Path], needles: Mapping[str, Mapping[str, bytes]], *, newer_s: float = 0.0
) -> Searched:
    """Every file below `folders` changed since `newer_s`, and its name, for every form of every needle.

    Symbolic links are not followed; a file that vanishes meanwhile is skipped, an unreadable one is named.
    """
    files = content_bytes = 0
    hits: list[Hit] = []
    unreadable: list[Path] = []
    for path in _regular_files(folders, newer_s):
        hits.extend(_in_bytes(path, os.fsencode(path.name), needles, "file name, "))
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                files, content_bytes = files + 1, content_bytes + size
                if size:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                        hits.extend(_in_bytes(path, view, needles, ""))
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            unreadable.append(path)
    return Searched(files, content_bytes, tuple(hits), tuple(unreadable))


def _in_bytes(
    path: Path, content: bytes | mmap.mmap, needles: Mapping[str, Mapping[str, bytes]], prefix: str
) -> Iterator[Hit]:
    for name, forms in needles.items():
        for form, value in forms.items():
            offset = content.find(value)
            if offset >= 0:
                yield Hit(path, name, prefix + form, offset)


def _regular_files(folders: Iterable[Path], newer_s: float) -> Iterator[Path]:
    for folder in folders:
        for base, names, leaves in os.walk(folder):
            names.sort()
            for leaf in sorted(leaves):
                path = Path(base, leaf)
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode) and status.st_mtime >= newer_s:
                        yield path
