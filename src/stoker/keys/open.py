"""From `[keys] url` to a key back end. See docs/design/keys.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stoker.core.clock import Clock
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import BadKeysUrl
from stoker.keys.file_backend import FileBackend


def open_backend(url: str, *, clock: Clock, passphrase: Callable[[], str] | None) -> KeyBackend:
    """The back end that `url` names: `file:///path/keys` is a folder on this machine.

    A new file key store without `passphrase` makes a root key file. Raises BadKeysUrl and what
    FileBackend.open raises.
    """
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    wrong = parts.netloc not in ("", "localhost") or parts.query or parts.fragment
    if parts.scheme != "file" or wrong or not path.is_absolute() or "\0" in str(path):
        raise BadKeysUrl(
            f"{url!a} names no key back end.",
            hint="Expected file:///absolute/path/of/a/folder.",
        )
    return FileBackend.open(path, clock=clock, passphrase=passphrase)
