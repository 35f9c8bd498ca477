"""What this node is called in records, so that what happened here is told from what happened elsewhere."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
from typing import Final

from stoker.core.atomic import naming_full_disk
from stoker.core.errors import BadHome
from stoker.core.home import Home

MAX_NODE_BYTES: Final = 80

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62})-[0-9a-f]{6}")


def node_name(home: Home) -> str:
    """The machine's name and six random digits, made at first use and kept in `HOME/node`.

    Two homes on one machine are two nodes, since each has a cache of its own; a home that moves to another
    machine stays the same node. Raises BadHome for a file that holds no such name; DiskFull.
    """
    path = home.root / "node"
    if not path.exists():
        short = re.sub(r"[^a-z0-9.-]", "", platform.node().partition(".")[0].lower()).strip(".-")[:60]
        draft = home.root / f".node.{secrets.token_hex(8)}.tmp"
        with naming_full_disk(path):
            draft.write_text(f"{short or 'node'}-{secrets.token_hex(3)}\n")
            draft.chmod(0o600)
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(draft, path)
            draft.unlink()
    with path.open("rb") as file:
        found = file.read(MAX_NODE_BYTES + 1).decode("ascii", "replace").strip()
    if _NAME.fullmatch(found) is None:
        raise BadHome(
            f"{path} holds no name of a node.",
            hint="Restore it. Or delete it, erase the cache, and name the old node in [cache] retired.",
        )
    return found


def is_node(name: str, called: str) -> bool:
    """Whether somebody who says `called` means the node `name`: by its whole name, or by the machine's."""
    return called in (name, name.rpartition("-")[0])
