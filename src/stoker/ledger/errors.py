"""What can go wrong with the record. See docs/design/ledger.md, "What can fail"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from stoker.core.errors import StokerError


class UnknownIdentity(StokerError):
    """No identity of that name is in the ledger."""

    exit_code = 20


class UnknownSource(StokerError):
    """No source of that name has been imported."""

    exit_code = 21


class UnknownDataset(StokerError):
    """No dataset of that name or root has been prepared."""

    exit_code = 22


class UnknownReview(StokerError):
    """No review has that id."""

    exit_code = 23


class UnknownRun(StokerError):
    """No run has that id."""

    exit_code = 24


class LedgerVersion(StokerError):
    """The ledger's schema is newer than this Stoker, or of no version that it knows."""

    exit_code = 25


class BadLedgerKey(StokerError):
    """The ledger's signing key is absent, malformed, readable by others, or belongs to another ledger."""

    exit_code = 26


class LedgerUnusable(StokerError):
    """The ledger cannot be opened, or what it holds is damaged so far that nothing may be added."""

    exit_code = 27


class LedgerRefused(StokerError):
    """What was asked contradicts what the ledger holds, or cannot be recorded exactly."""

    exit_code = 28


class LedgerRolledBack(StokerError):
    """The audit log is shorter than, or different from, a checkpoint that it signed before."""

    exit_code = 29


class PermissionRefused(StokerError):
    """The identity's role, or the scope of its token, does not allow this."""

    exit_code = 254


class TokenRefused(StokerError):
    """The token is none of this ledger's, was revoked, or its time is over."""

    exit_code = 255


def nearest_hint(asked: str, known: Iterable[str], listing: str) -> str:
    """A hint that offers the nearest of the `known` names, or says how to list them with `listing`."""
    names: Sequence[str] = sorted(set(known))
    if not names:
        return f"There is none yet. List them with: {listing}"
    near = difflib.get_close_matches(asked[:200], names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!a}? List them with: {listing}"
    shown = ", ".join(ascii(name) for name in names[-5:])
    return f"Known here: {shown}. List them with: {listing}"
