"""What can go wrong while a run is kept alive. See docs/design/fleet.md."""

from __future__ import annotations

from stoker.core.errors import StokerError


class RestartBudgetSpent(StokerError):
    """The run failed more often than its launch section allows restarts."""

    exit_code = 130


class RankFailed(StokerError):
    """A rank ended with an error that a restart cannot mend."""

    exit_code = 131


class NotResumable(StokerError):
    """The run cannot go on: it is finished, or its key or dataset is gone."""

    exit_code = 132


class DatasetGone(StokerError):
    """The dataset that a run names is destroyed or has expired."""

    exit_code = 133


class IsolationRefused(StokerError):
    """The run asks for network isolation, and this machine does not give it."""

    exit_code = 134


class AgentFailed(StokerError):
    """The agent process could not be started or broke its protocol."""

    exit_code = 135


class BadRunFolder(StokerError):
    """A file in a run's folder is missing, of an unknown version, or malformed."""

    exit_code = 136


class CrashLoop(StokerError):
    """The run failed too often in a row without getting further, over all of its supervisors."""

    exit_code = 146


class IsolationLost(StokerError):
    """A way out of the run's network was found while it ran; its lease was ended."""

    exit_code = 147


class LinkTooWeak(StokerError):
    """A link of the run is protected less than a review of its data asks for, or than was declared."""

    exit_code = 148


class LauncherRefused(StokerError):
    """A launcher did not do what it was asked: no right to, no such partition, no such state."""

    exit_code = 137


class LauncherSilent(StokerError):
    """A launcher's commands are absent, or its controller does not answer."""

    exit_code = 138


class BadAnswer(StokerError):
    """A launcher's answer cannot be read, so nothing was taken from it."""

    exit_code = 139


class UnknownJob(StokerError):
    """A launcher knows no job of this number, or does not any more."""

    exit_code = 140


class UnknownNode(StokerError):
    """A launcher knows no node of this name."""

    exit_code = 141
