"""What can go wrong with the page itself, each with its own exit code. See docs/design/web.md."""

from __future__ import annotations

from stoker.core.errors import StokerError


class PortTaken(StokerError):
    """The port that the page is to be served on cannot be listened on."""

    exit_code = 180
