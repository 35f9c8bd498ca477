"""What can go wrong with the tasks of a preparation. See docs/design/intake.md, "Tasks and executors"."""

from __future__ import annotations

from stoker.core.errors import StokerError


class TaskFailed(StokerError):
    """A task of a preparation failed more often than it is tried again."""

    exit_code = 227


class UnusableExecutor(StokerError):
    """Tasks cannot run there: the cluster's commands are missing, or its nodes could not open the keys."""

    exit_code = 228


class BrokenPlan(StokerError):
    """A plan or an intermediate of a preparation opened correctly but does not follow its format."""

    exit_code = 229
