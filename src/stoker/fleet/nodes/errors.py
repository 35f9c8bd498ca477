"""What can go wrong with nodes of the fleet. See docs/design/nodes.md."""

from __future__ import annotations

from stoker.core.errors import StokerError


class NodeNeverSeen(StokerError):
    """Nothing was ever recorded of a node of that name."""

    exit_code = 142


class NodeActRefused(StokerError):
    """The node is not in a state in which this can be done to it, or the words for it are missing."""

    exit_code = 143


class BadJobHistory(StokerError):
    """A file of ended jobs has a line that is none."""

    exit_code = 144
