"""A key store of version 1, brought up to date: see docs/design/keys.md, "Version 1"."""

from __future__ import annotations

from typing import Any, Final

from stoker.keys.states import DEFAULT_ORIGINATOR_S, MIN_WINDOW_S, KekState

_MEMBERS: Final = {
    "purpose",
    "state",
    "created_s",
    "expires_s",
    "deactivated_s",
    "requested_by",
    "approved_by",
    "destroyed_s",
    "wraps",
    "wrapped",
}


def from_version_1(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a KEK as version 2 writes it; a request to destroy that stood still stands.

    The KEK's bytes stay as they were, wrapped with its purpose in their context; the handle says so.
    Raises KeyError, TypeError or ValueError for an entry that is none of version 1.
    """
    if set(entry) != _MEMBERS:
        raise ValueError("it has other members than version 1")
    gone = entry["state"] == KekState.DESTROYED
    return {
        "purpose": entry["purpose"],
        "life": {
            "state": entry["state"],
            "requested_by": entry["requested_by"],
            "window_s": None if entry["requested_by"] is None else MIN_WINDOW_S,
            "approved_by": entry["approved_by"],
        },
        "created_s": entry["created_s"],
        "activates_s": entry["created_s"],
        "wraps_until_s": entry["created_s"] + DEFAULT_ORIGINATOR_S,
        "expires_s": entry["expires_s"],
        "deactivated_s": entry["deactivated_s"],
        "compromised_s": None,
        "destroyed_s": entry["destroyed_s"],
        "wraps": entry["wraps"],
        "handle": None if gone else f"v1:{entry['purpose']}:{entry['wrapped']}",
        "told": "destroyed" if gone else "enabled",
    }
