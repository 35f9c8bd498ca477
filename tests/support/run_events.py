"""Events of a run, told by hand with the fields that each kind needs, for tests of the accounting."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoker.core.canonical import JsonValue
from stoker.core.events import REQUIRED_FIELDS, Event, EventKind
from stoker.core.ids import RunId

RUN = RunId("r-00000000000000000000")

_USUAL: dict[type | tuple[type, ...], JsonValue] = {int: 0, str: "", (int, float): 0.0, list: []}


def an_event(
    kind: EventKind,
    at_s: float,
    *,
    rank: int = -1,
    attempt: int = 1,
    node: str = "local",
    **fields: JsonValue,
) -> Event:
    """An event of `kind` at `at_s` on both clocks; fields that are not given are zero or empty."""
    usual = {name: _USUAL[expected] for name, expected in REQUIRED_FIELDS[kind].items()}
    return Event(at_s, at_s, RUN, attempt, rank, node, kind, {**usual, **fields})


@dataclass(slots=True)
class Story:
    """Tells a run event by event; `at` moves its clock."""

    now_s: float = 0.0
    attempt: int = 0
    events: list[Event] = field(default_factory=list)

    def tell(self, kind: EventKind, *, after_s: float = 0.0, rank: int = -1, **fields: JsonValue) -> Story:
        self.now_s += after_s
        self.events.append(an_event(kind, self.now_s, rank=rank, attempt=self.attempt, **fields))
        return self

    def begin(self, steps: int = 10) -> Story:
        return self.tell(EventKind.RUN_STARTED, steps=steps, world_size=2)

    def start_attempt(self, resume_step: int, *, ready_after_s: float, after_s: float = 0.0) -> Story:
        self.attempt += 1
        self.tell(EventKind.ATTEMPT_STARTED, after_s=after_s, world_size=2, resume_step=resume_step)
        return self.tell(
            EventKind.RANK_READY, after_s=ready_after_s, rank=0, resume_step=resume_step, parameters=7
        )

    def steps(
        self, first: int, last: int, *, step_s: float, data_wait_s: float = 0.0, slack_s: float = 0.0
    ) -> Story:
        for step in range(first, last + 1):
            self.tell(
                EventKind.STEP,
                after_s=step_s + slack_s,
                rank=0,
                step=step,
                tokens=100,
                step_s=step_s,
                data_wait_s=data_wait_s,
                loss=10.0 / step,
            )
        return self
