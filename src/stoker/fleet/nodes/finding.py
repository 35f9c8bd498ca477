"""What a check says of a node. See docs/design/nodes.md, "Checks"."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from stoker.core.node_settings import Severity

MAX_EVIDENCE: Final = 300
"""Characters of evidence that are kept; what a program prints may be anything."""


class CheckState(enum.StrEnum):
    """The answer of one check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    NOT_PRESENT = "not present"
    """There is nothing to judge, or no way to see it. Never counted as ok."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, with the evidence in one line."""

    state: CheckState
    evidence: str


def ok(evidence: str) -> Finding:
    """What was looked at is as it should be."""
    return Finding(CheckState.OK, evidence)


def warn(evidence: str) -> Finding:
    """Something is unusual; the node may go on."""
    return Finding(CheckState.WARN, evidence)


def fail(evidence: str) -> Finding:
    """The node should not be used."""
    return Finding(CheckState.FAIL, evidence)


def not_present(evidence: str) -> Finding:
    """Nothing was there to be judged."""
    return Finding(CheckState.NOT_PRESENT, evidence)


def worst(problems: Sequence[Finding], otherwise: str) -> Finding:
    """One finding for several: the worst state with all its evidence, or ok with `otherwise`."""
    for state in (CheckState.FAIL, CheckState.WARN):
        told = [each.evidence for each in problems if each.state is state]
        if told:
            return Finding(state, "; ".join(told))
    return ok(otherwise)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of a report. `severity` is what a failure asks for, None for every other state.

    `answered` is False when the check was still at it when its time was over; it then counts as failed.
    """

    name: str
    state: CheckState
    evidence: str
    severity: Severity | None
    took_s: float
    answered: bool = True


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Every check of one node at one time."""

    kind: ClassVar[str] = "node-check"
    version: ClassVar[int] = 1
    node: str
    checked_s: float
    took_s: float
    results: tuple[CheckResult, ...]
    recorded_as: str = ""
    """Where the node stands in the ledger after this report; empty when it was not recorded."""
    for_slurm: str = ""
    """What was done with the node in Slurm; empty when Slurm did not ask."""
    refuses: bool = False
    """Whether a prolog refuses the job."""

    def of(self, state: CheckState) -> tuple[CheckResult, ...]:
        """The results in this state, in order."""
        return tuple(each for each in self.results if each.state is state)

    @property
    def findings(self) -> tuple[CheckResult, ...]:
        """What failed or warns."""
        return self.of(CheckState.FAIL) + self.of(CheckState.WARN)

    @property
    def severity(self) -> Severity | None:
        """The worse of what the failures ask for; None when nothing failed."""
        asked = {each.severity for each in self.of(CheckState.FAIL)}
        return next((each for each in Severity if each in asked), None)


def one_line(text: str) -> str:
    """`text` as evidence: one line of printable characters, at most MAX_EVIDENCE."""
    flat = " ".join(text.split())
    shown = "".join(char if char.isprintable() else "?" for char in flat)
    return shown if len(shown) <= MAX_EVIDENCE else shown[: MAX_EVIDENCE - 1] + "…"
