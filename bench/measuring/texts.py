"""Real text that is on every machine: the sources of the running Python's standard library."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stoker.spec.recipe import ImportSpec

SOURCES: Final = ImportSpec(include=("*.py",), exclude=("site-packages", "*/site-packages", "*__pycache__"))
"""The same choice of files for an import."""


def standard_library() -> Path:
    """Its folder."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(megabytes: int) -> Iterator[Path]:
    """Files in the order of their paths, until they hold `megabytes`."""
    folder, total = standard_library(), 0
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder).parts
        if "site-packages" in inner or "__pycache__" in inner:
            continue
        if total >= megabytes * 1_000_000:
            return
        total += path.stat().st_size
        yield path


def copy_sources(target: Path, megabytes: int) -> Path:
    """The same files in a folder of their own; returns it."""
    for path in source_files(megabytes):
        copy = target / path.relative_to(standard_library())
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return target
