"""A supervisor's errands without ledger and keys, so that tests can drive it with fake ranks.

Run as a program (`python fake_house.py FOLDER SETTINGS`), it supervises one run of fake ranks: for tests that
signal or kill the supervisor itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.core.clock import SystemClock
from stoker.core.events import Event, EventKind, read_events
from stoker.core.ids import RunId
from stoker.core.progress import SILENT
from stoker.fleet.attempt import rank_environment
from stoker.fleet.charge import Charge
from stoker.fleet.faults import KillRank
from stoker.fleet.places import Room
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Policy
from stoker.fleet.spread.reach import Reach
from stoker.fleet.spread.spread_attempt import Site
from stoker.fleet.supervisor import Supervisor
from stoker.fleet.verdict import Verdict
from stoker.keys.agent import KeyAgent
from stoker.spec.run import IsolationPolicy, RankOutput

RUN = RunId("r-00000000000000000000")
FAKE_RANK = str(Path(__file__).with_name("fake_rank.py"))


@dataclass(slots=True)
class FakeErrands:
    """Jobs for fake ranks; checkpoints are kept in a list."""

    folder: RunFolder
    world_size: int = 2
    steps: int = 6
    checkpoint_every: int = 2
    step_s: float = 0.01
    deeds: Sequence[Mapping[str, Any]] = ()
    commit_when_asked: bool = False
    keys: Callable[[int], KeyAgent | None] = lambda attempt: None
    may_go_on: Callable[[], None] = lambda: None
    recorded: list[Event] = field(default_factory=list)

    def resume_step(self) -> int:
        return max((int(each.number("step")) for each in self.recorded), default=0)

    def prepare(self, attempt: int, world_size: int) -> tuple[tuple[str, ...], ...]:
        self.may_go_on()
        job = {
            "run": RUN,
            "attempt": attempt,
            "world_size": world_size,
            "steps": self.steps,
            "resume": self.resume_step(),
            "checkpoint_every": self.checkpoint_every,
            "step_s": self.step_s,
            "deeds": list(self.deeds),
            "folder": str(self.folder.path),
            "commit_when_asked": self.commit_when_asked,
        }
        path = self.folder.job(attempt)
        path.write_text(json.dumps(job))
        return self.commands(attempt, world_size)

    def commands(self, attempt: int, world_size: int) -> tuple[tuple[str, ...], ...]:
        path = str(self.folder.job(attempt))
        ranks = range(world_size)
        return tuple((sys.executable, FAKE_RANK, "--job", path, "--rank", str(rank)) for rank in ranks)

    def lease(self, attempt: int) -> KeyAgent | None:
        return self.keys(attempt)

    def lease_expiry_s(self) -> float:
        self.may_go_on()
        return time.time() + 60.0

    def committed(self, event: Event) -> None:
        self.recorded.append(event)


def make_folder(path: Path) -> RunFolder:
    path.mkdir(mode=0o700, exist_ok=True)
    return RunFolder(path)


def a_policy(**changes: Any) -> Policy:
    usual: dict[str, Any] = {
        "world_size": 2,
        "restarts": 3,
        "hang_after_s": 20.0,
        "start_within_s": 20.0,
        "stop_grace_s": 5.0,
        "backoff_first_s": 0.01,
    }
    return Policy(**{**usual, **changes})


def supervise(
    errands: FakeErrands,
    *,
    policy: Policy | None = None,
    faults: Sequence[KillRank] = (),
    isolation: IsolationPolicy = IsolationPolicy.OFF,
    **more: Any,
) -> Verdict:
    """Supervise a run of fake ranks to its end."""
    charge = Charge(
        run=RUN,
        folder=errands.folder,
        node="local",
        steps=errands.steps,
        policy=policy or a_policy(world_size=errands.world_size),
        environment=rank_environment(os.environ, 1),
        isolation=isolation,
        faults=faults,
        **{"rank_output": RankOutput.WHOLE, **more},
    )
    return Supervisor(charge, errands, SILENT, SystemClock()).run()


def told(folder: RunFolder, *kinds: EventKind) -> list[Event]:
    """The events of these kinds, in order."""
    return [event for event in read_events(folder.events).events if event.kind in kinds]


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than an entry that waits to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that must come; the limit only keeps a broken test from running for ever."""
    for _ in range(3_000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError(f"waited in vain until {what}")


def main() -> int:
    folder = make_folder(Path(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    isolation = IsolationPolicy(settings.pop("isolation", "off"))
    standby_after_s = settings.pop("standby_after_s", None)
    nodes = tuple(settings.pop("nodes", ()))
    errands = FakeErrands(folder, **settings)
    spread: dict[str, Any] = {}
    if nodes:
        site = Site(Reach(nodes, interface="lo"), folder.path / "home", folder.path)
        spread = {"site": site, "policy": a_policy(nodes=Room(nodes, 1, (2,)))}
    verdict = supervise(errands, isolation=isolation, standby_after_s=standby_after_s, **spread)
    if verdict.error is not None:
        print(verdict.error.error_id)
    return {"finished": 0, "cancelled": 3}.get(verdict.outcome.value, 1)


if __name__ == "__main__":
    sys.exit(main())
