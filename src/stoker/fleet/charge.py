"""What a supervisor is given: the run to keep alive, and the errands that others do for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from stoker.core.events import Event
from stoker.core.ids import RunId
from stoker.fleet.attribution import Attribution
from stoker.fleet.faults import Fault
from stoker.fleet.links import Link
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Policy
from stoker.fleet.spread.spread_attempt import Site
from stoker.fleet.wandb_log import WandbRun
from stoker.fleet.witnesses import Witnesses, nobody
from stoker.keys.agent import KeyAgent
from stoker.spec.run import Device, IsolationMeans, IsolationPolicy, RankOutput
from stoker.store.handed import StoreHand
from stoker.train.hardware import ChosenDevice

ON_CPU: Final = ChosenDevice(Device.CPU, "nobody asked for another")


@dataclass(frozen=True, slots=True)
class Charge:
    """What a supervisor is to keep alive."""

    run: RunId
    folder: RunFolder
    node: str
    steps: int
    policy: Policy
    environment: Mapping[str, str]
    isolation: IsolationPolicy
    faults: Sequence[Fault] = ()
    isolate_by: IsolationMeans = IsolationMeans.AUTO
    probe_every_s: float = 10.0
    links: Sequence[Link] = ()
    writable: Sequence[Path] | None = None
    """Where ranks may write beside their attempt's folder; None: wherever their user may."""
    rank_output: RankOutput = RankOutput.SIEVED
    open_because: str = "isolation was not asked for"
    """What the probe says where `isolation` is off."""
    standby_after_s: float | None = None
    """When an attempt has trained for so long, the next one's processes are started ahead; None: never."""
    site: Site | None = None
    """How the run's nodes are reached, where it has several; None: all its ranks are here."""
    hand: StoreHand | None = None
    """Where ranks cannot reach their store themselves: who asks it for them."""
    failures_in_row: int = 0
    """How often the run has failed without progress before this supervisor."""
    forgiven: bool = False
    """A person said that failures of before shall not count."""
    left_open: Attribution | None = None
    """What the last attempt of the supervisor before died of, when nobody told its end."""
    witnesses: Witnesses = nobody
    """Who else may say what an attempt died of."""
    device: ChosenDevice = ON_CPU
    """Where every rank computes, and why there."""
    wandb: WandbRun | None = None
    """What W&B's offline file says of the run, where it asks for one."""


class Errands(Protocol):
    """What the supervisor needs of the house: keys, jobs and the ledger, behind one door."""

    def resume_step(self) -> int:
        """The step of the last recorded checkpoint; 0 when there is none."""
        ...

    def commands(self, attempt: int, world_size: int) -> tuple[tuple[str, ...], ...]:
        """The command of each rank, whether its job file is there or not."""
        ...

    def prepare(self, attempt: int, world_size: int) -> tuple[tuple[str, ...], ...]:
        """Write the attempt's job file and return the command of each rank.

        Raises a StokerError when the run may not go on: the review, the dataset or a key is gone.
        """
        ...

    def lease(self, attempt: int) -> KeyAgent | None:
        """The key agent of the attempt under a fresh lease; None where ranks need no keys."""
        ...

    def lease_expiry_s(self) -> float:
        """When a lease that is renewed now shall end."""
        ...

    def committed(self, event: Event) -> None:
        """Record a checkpoint."""
        ...
