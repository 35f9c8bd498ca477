"""The words of a node's life: phases, reasons, what may happen, and what the shell must do.

See docs/design/nodes.md, "The state machine".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.core.node_settings import Severity

PERSON: Final = "person"
"""The source of a reason that a person gave; no check has this name."""

LOST: Final = "lost"
"""The source of the reason that a node did not answer."""


class Phase(enum.StrEnum):
    """Where a node stands."""

    HEALTHY = "healthy"
    """Takes work."""

    SUSPECT = "suspect"
    """Takes work when no other does; a check warns, or the node was named as a culprit."""

    DRAINING = "draining"
    """Takes no new work; what runs there may end."""

    DRAINED = "drained"
    """Nothing runs there; it waits for a repair or for checks that pass."""

    OUT = "out"
    """Must not be used now; what runs there is being ended."""

    RETURNING = "returning"
    """All checks passed once; it takes no work until they have passed often enough."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node takes no work: what says so (a check's name, PERSON or LOST), and the evidence."""

    source: str
    evidence: str
    since_s: float
    by: str = ""


@dataclass(frozen=True, slots=True)
class Overruled:
    """A check that a person overruled for this node, until a time."""

    check: str
    until_s: float


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """`passes_to_return` reports without a finding bring a node back; `passes_to_clear` end a suspicion."""

    passes_to_return: int = 2
    passes_to_clear: int = 3

    def __post_init__(self) -> None:
        if self.passes_to_return < 1 or self.passes_to_clear < 1:
            raise ValueError("a node returns after at least one report without a finding")


@dataclass(frozen=True, slots=True)
class NodeState:
    """Everything that is known of one node's life. `reasons` are empty while it takes work."""

    phase: Phase = Phase.HEALTHY
    reasons: tuple[Reason, ...] = ()
    passes: int = 0
    overruled: tuple[Overruled, ...] = ()
    silent: tuple[str, ...] = ()
    """Checks that gave no answer in the last report; a second time in a row is a failure."""

    @property
    def takes_work(self) -> bool:
        """Whether a launcher may begin something there."""
        return self.phase in TAKES_WORK

    @property
    def held_by_a_person(self) -> bool:
        """Whether a person took it out of use: then only a person lets it come back."""
        return any(each.source == PERSON for each in self.reasons)


TAKES_WORK: Final = frozenset({Phase.HEALTHY, Phase.SUSPECT})


@dataclass(frozen=True, slots=True)
class SeenFinding:
    """A check that failed (with its severity) or warns (severity None); `answered`: it saw something."""

    check: str
    severity: Severity | None
    evidence: str
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a node, at `now_s` on the wall clock."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Checked(Event):
    """A report came. `ok` are the checks that saw something and found it sound."""

    findings: tuple[SeenFinding, ...]
    ok: frozenset[str]


@dataclass(frozen=True, slots=True)
class Blamed(Event):
    """The node was named as the culprit of a failure."""

    evidence: str


@dataclass(frozen=True, slots=True)
class NodeLost(Event):
    """The node does not answer."""

    evidence: str


@dataclass(frozen=True, slots=True)
class JobsGone(Event):
    """Nothing runs there any more."""


@dataclass(frozen=True, slots=True)
class Drain(Event):
    """A person takes the node out of use, `now` or after what runs there."""

    by: str
    reason: str
    now: bool = False


@dataclass(frozen=True, slots=True)
class Resume(Event):
    """A person lets the node come back, once its checks pass."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overrule(Event):
    """A person brings the node back whatever the checks say; those that spoke are not heard `until_s`."""

    by: str
    reason: str
    until_s: float


@dataclass(frozen=True, slots=True)
class StopPlacing:
    """Begin nothing more on the node."""

    reason: str


@dataclass(frozen=True, slots=True)
class EndJobs:
    """End what runs there now; it goes on elsewhere."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunChecks:
    """Look the node over soon, and not only at the next round."""


@dataclass(frozen=True, slots=True)
class PlaceAgain:
    """The node takes work again."""


Instruction: TypeAlias = StopPlacing | EndJobs | RunChecks | PlaceAgain
