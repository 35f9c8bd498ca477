"""A login secret of a vault, a token or a PIN, comes out of a private file and from nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from stoker.keys.errors import LooseKeyFile
from stoker.keys.root import open_private

MAX_SECRET_BYTES: Final = 4096
PIPES: Final = "/dev/fd/"


def read_secret_file(path: Path, what: str) -> str:
    """The first line of the file at `path`, which holds `what`, such as "the PIN".

    `/dev/fd/N` is a pipe that this process inherited; it can be read once.

    Raises LooseKeyFile unless it is that, or a plain file of this user, closed to others, with one line.
    """
    descriptor = _open_pipe(path) if str(path).startswith(PIPES) else open_private(path)
    if descriptor is None:
        raise LooseKeyFile(f"{path}, which should hold {what}, is missing.", hint=_HINT)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        content = file.read(MAX_SECRET_BYTES + 1) or b""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = []
    if len(content) > MAX_SECRET_BYTES or len(lines) != 1 or not lines[0].strip():
        raise LooseKeyFile(f"{path} should hold {what} in one line of text, and nothing else.", hint=_HINT)
    return lines[0].strip()


def _open_pipe(path: Path) -> int | None:
    """The pipe that this process inherited as /dev/fd/N; nobody else can open it, whatever its mode."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LooseKeyFile(f"{path} is no pipe.", hint=_HINT)
    return descriptor


_HINT: Final = f"Put one line of at most {MAX_SECRET_BYTES} bytes into a plain file of mode 0600."
