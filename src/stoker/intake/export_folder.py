"""A new folder that leaves the house: beside nothing, outside the home, whole or not there at all.

Used by exports of datasets and of models. See docs/design/intake.md, "Export".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from stoker.core.atomic import sync_folder
from stoker.intake.errors import UnusableTarget


def free_target(target: Path, forbidden: Sequence[Path]) -> Path:
    """The target as an absolute path in a real folder. Raises UnusableTarget."""
    hint = "Name a folder that does not exist yet, in one that you own and outside Stoker's home."
    absolute = target.absolute()
    if os.path.lexists(absolute):
        raise UnusableTarget(f"{absolute} exists already; nothing is written over.", hint=hint)
    try:
        parent = absolute.parent.resolve(strict=True)
    except OSError as error:
        raise UnusableTarget(f"{absolute.parent} cannot be used: {error.strerror}.", hint=hint) from error
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UnusableTarget(f"{parent} is no folder that can be written to.", hint=hint)
    for place in forbidden:
        kept = place.resolve()
        if parent == kept or kept in parent.parents:
            raise UnusableTarget(f"{absolute} lies in {kept}, where everything is sealed.", hint=hint)
    return parent / absolute.name


@contextlib.contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """A locked folder beside `target` to write in; gone after the block unless it was published."""
    _remove_stale(target)
    draft = target.with_name(f".{target.name}.partial-{secrets.token_hex(8)}")
    draft.mkdir(mode=0o700)
    lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


def _remove_stale(target: Path) -> None:
    """Remove what a killed export to the same place left; one that is at work holds its folder's lock."""
    prefix = f".{target.name}.partial-"
    for path in target.parent.iterdir():
        if not path.name.startswith(prefix) or path.is_symlink() or not path.is_dir():
            continue
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def publish(draft: Path, target: Path) -> None:
    """Give the draft its name, for good. Raises UnusableTarget when something took the name meanwhile."""
    sync_folder(draft)
    if os.path.lexists(target):
        raise UnusableTarget(f"{target} came to exist meanwhile.", hint="Export to another folder.")
    draft.rename(target)
    sync_folder(target.parent)
