"""A machine that refuses network namespaces."""

from __future__ import annotations

from typing import Final

WITHOUT_NAMESPACES: Final = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"',
    "sh",
]
"""Such a machine, for the command that follows. Bubblewrap is refused there as well."""
