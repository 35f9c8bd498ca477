"""What can be wrong with a checkpoint or with the life of a rank. See docs/design/train.md.

Most of these end a run: another attempt would meet the same. Those in `RETRYABLE` are about one attempt, and
the next may go well. This module imports no torch, so that a supervisor can ask it.
"""

from __future__ import annotations

from typing import Final

from stoker.core.errors import StokerError


class BadJob(StokerError):
    """The job file, or an inherited descriptor, is missing or is not what a launcher writes."""

    exit_code = 111


class Fenced(StokerError):
    """A newer attempt of the same run has taken over the commit log."""

    exit_code = 112


class BadCommitLog(StokerError):
    """A record of the commit log is missing, replaced, rolled back or malformed."""

    exit_code = 113


class BadCheckpointPart(StokerError):
    """A part of a checkpoint is not the one that its record names, or does not hold what it should."""

    exit_code = 114


class CheckpointUnfit(StokerError):
    """A whole checkpoint of another model or optimizer, or a value that a checkpoint cannot carry."""

    exit_code = 115


class NonFiniteState(StokerError):
    """A weight or an optimizer state is NaN or infinite; it is not saved over a good checkpoint."""

    exit_code = 119


class CheckpointFailed(StokerError):
    """Saving or loading failed on some rank for a reason that is no error of ours."""

    exit_code = 116


class CheckpointLost(StokerError):
    """A checkpoint that the ledger knows is whole in neither of its two stores."""

    exit_code = 126


class TelemetryLost(StokerError):
    """Nobody reads this rank's events any more; a rank that nobody watches must not go on."""

    exit_code = 117


class PeerLost(StokerError):
    """A collective failed, most likely because another rank has died."""

    exit_code = 118


RETRYABLE: Final = frozenset(error.exit_code for error in (CheckpointFailed, TelemetryLost, PeerLost))
"""Exit codes of this room after which another attempt may go well."""
