"""What the run state machine speaks of: phases, causes, the state, inputs and instructions.

The rules that connect them are in machine.py; both are explained in docs/design/fleet.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from stoker.core.events import Section
from stoker.fleet.places import Room, one_node
from stoker.fleet.section_limits import SectionTimes


class Phase(enum.StrEnum):
    """Where a run stands."""

    NEW = "new"
    STARTING = "starting"
    TRAINING = "training"
    STOPPING = "stopping"
    WAITING = "waiting"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({Phase.FINISHED, Phase.FAILED, Phase.CANCELLED})
ALIVE: Final = frozenset({Phase.STARTING, Phase.TRAINING, Phase.STOPPING})
"""The phases in which processes of an attempt may exist."""


class CauseKind(enum.StrEnum):
    """Why an attempt ended before its work was done."""

    EXIT = "exit"
    SIGNAL = "signal"
    HANG = "hang"
    START_LIMIT = "start_limit"
    AGENT_LOST = "agent_lost"
    NODE_LOST = "node_lost"
    REGROUP = "regroup"
    NO_NODE = "no_node"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Cause:
    """The first thing that went wrong in an attempt, or the error that explains it; `rank` -1 names none."""

    kind: CauseKind
    rank: int
    exit_code: int = 0
    signal: int = 0

    def __str__(self) -> str:
        if self.kind is CauseKind.EXIT:
            return f"rank {self.rank} ended with exit code {self.exit_code}"
        if self.kind is CauseKind.SIGNAL:
            return f"rank {self.rank} was ended by signal {self.signal}"
        if self.kind is CauseKind.HANG:
            return f"rank {self.rank} hung"
        if self.kind is CauseKind.START_LIMIT:
            return f"rank {self.rank} was not ready within the start-up limit"
        if self.kind is CauseKind.REFUSED:
            return "an attempt may not be started"
        if self.kind is CauseKind.NODE_LOST:
            return f"the node of rank {self.rank} was lost"
        if self.kind is CauseKind.REGROUP:
            return "a node came back"
        if self.kind is CauseKind.NO_NODE:
            return "too few nodes are left for any world that fits"
        return "the agent was lost"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run may cost before it is given up. Durations in seconds.

    `retry_codes` are the exit codes of known errors that a restart may mend; every other known error ends the
    run. `hang_after_s` bounds what a section may take, and `hang_at_least_s` what is learnt of it. An attempt
    that is told to stop politely has `stop_grace_s` before its ranks are killed; one that may
    not go on, so that its lease is over, has `refused_grace_s` to wipe what it holds.
    """

    world_size: int
    restarts: int
    hang_after_s: float
    start_within_s: float
    retry_codes: frozenset[int] = frozenset()
    stop_grace_s: float = 15.0
    leave_within_s: float = 60.0
    """How long a checkpoint may take that is asked for because the time on a node is nearly up."""
    refused_grace_s: float = 3.0
    hang_at_least_s: float = 10.0
    stacks_within_s: float = 1.0
    """How long ranks that hang have to tell where they stand, before they are killed."""
    symptom_codes: frozenset[int] = frozenset()
    """Exit codes by which a rank only tells what another's failure did to it."""
    last_words_s: float = 1.0
    """How long the other ranks have after such a one, so that the one that failed can say so itself."""
    backoff_first_s: float = 1.0
    backoff_limit_s: float = 60.0
    row_limit: int = 10
    """So many failures without progress between them end the run, over all of its supervisors."""
    nodes: Room | None = None
    """The nodes that ranks can be on; None: all `world_size` of them are on one."""

    @property
    def room(self) -> Room:
        return self.nodes or one_node(self.world_size)


@dataclass(frozen=True, slots=True)
class RankView:
    """What is known of one rank in the attempt that is alive; `ended` holds its exit code or -signal."""

    ready: bool = False
    section: Section = Section.START_UP
    step: int = 0
    heard_s: float = 0.0
    moved_s: float = 0.0
    ended: int | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything the next decision depends on. Made by `begin_state`, changed by `machine.transition`."""

    phase: Phase
    attempt: int
    restarts_used: int = 0
    failures_in_row: int = 0
    committed_step: int = 0
    cancelling: bool = False
    leave_by_s: float = 0.0
    """When the run ends at the latest since its time on this node is nearly up; 0: it was not told so."""
    leave_after_step: int = 0
    """It ends with the first checkpoint of this step or a later one."""
    cause: Cause | None = None
    ranks: tuple[RankView, ...] = ()
    place: tuple[str, ...] = ()
    """The node of each rank of the newest attempt."""
    lost: frozenset[str] = frozenset()
    """Nodes that cannot be used now."""
    times: SectionTimes = field(default_factory=SectionTimes)
    phase_since_s: float = 0.0
    wait_until_s: float = 0.0
    seen_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Begin:
    """The supervisor is ready to run."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A rank said where it is; `moved` is true for news that is progress by itself, such as an evaluation."""

    now_s: float
    attempt: int
    rank: int
    section: Section
    step: int
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """A rank has its model, its state and its peers, and begins with steps."""

    now_s: float
    attempt: int
    rank: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A rank is gone; `signal` is 0 unless one ended it."""

    now_s: float
    attempt: int
    rank: int
    exit_code: int
    signal: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The attempt may not go on: a key, the dataset, the review or the isolation is not there."""

    now_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Gone:
    """No process of the attempt exists any more."""

    now_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint stands and is recorded."""

    now_s: float
    attempt: int
    step: int


@dataclass(frozen=True, slots=True)
class Named:
    """The stacks of an attempt that hung say for which rank the others waited."""

    now_s: float
    attempt: int
    rank: int


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone, and with it its ranks."""

    now_s: float
    node: str


@dataclass(frozen=True, slots=True)
class NodeBack:
    """A node that was lost can be used again."""

    now_s: float
    node: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """A person asked the run to stop. Asked twice: stop at once."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Leave:
    """The time on this node is nearly up: save a checkpoint, then end as if cancelled."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    now_s: float


Input: TypeAlias = (
    Begin
    | Heard
    | Ready
    | Exited
    | Refused
    | Gone
    | Committed
    | Named
    | NodeLost
    | NodeBack
    | Cancel
    | Leave
    | Tick
)


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Choose the resume point, then start an agent and all ranks."""

    attempt: int


@dataclass(frozen=True, slots=True)
class SaveNow:
    """Ask the ranks for a checkpoint."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """End every rank: politely first when `grace_s` is more than zero.

    `quiet`: ranks are asked by nothing but the end of their lease. `stacks`: they are asked where they stand,
    and nothing else. `last_words`: nothing is asked of them; one that is ending has so long to end by itself.
    """

    attempt: int
    grace_s: float
    quiet: bool = False
    stacks: bool = False
    last_words: bool = False


@dataclass(frozen=True, slots=True)
class ReportHang:
    """Tell which rank hung, where, and for how long it made no progress."""

    attempt: int
    rank: int
    silent_s: float
    section: Section


@dataclass(frozen=True, slots=True)
class Regroup:
    """Tell that an attempt ends so that the next one can have more ranks."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptOver:
    """Tell how the attempt ended."""

    attempt: int
    outcome: str


@dataclass(frozen=True, slots=True)
class RestartPlanned:
    """Tell that another attempt follows, when, and why."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class EndRun:
    """The run is over."""

    outcome: Phase
    cause: Cause | None
    budget_spent: bool = False
    failures_in_row: int = 0


Instruction: TypeAlias = (
    StartAttempt | SaveNow | StopAttempt | ReportHang | Regroup | AttemptOver | RestartPlanned | EndRun
)


def begin_state(last_attempt: int = 0, committed_step: int = 0, failures_in_row: int = 0) -> RunState:
    """The state of a run before this supervisor acts; all are 0 unless it is resumed."""
    return RunState(Phase.NEW, last_attempt, committed_step=committed_step, failures_in_row=failures_in_row)
