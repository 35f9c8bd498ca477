"""The home of a campaign, and the program that supervises its run.

`python -m support.chaos.house FOLDER train|resume NAME STEPS`. What came of it is written to `verdict.json`,
as a terminal shows it; a supervisor that is killed writes none. Its wall clock is as wrong as `clock` says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stoker.core.atomic import write_atomic
from stoker.core.clock import Clock, SystemClock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.core.progress import SILENT
from stoker.fleet.launch import resume_run, start_run
from stoker.keys.open import open_backend
from stoker.ledger.ledger import Ledger
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from stoker.spec.watch import OnBadStep, WatchSpec
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from support.promise_home import CACHE_BYTES, PURPOSE, PromiseHome

HANG_S = 6.0
CHECKPOINT_EVERY = 4
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of a campaign lies below one folder; `disk` is a file system of its own."""

    root: Path

    @property
    def disk(self) -> Path:
        return self.root / "disk"

    @property
    def room(self) -> Path:
        """What campaign and ranks tell one another; a rank reads there only."""
        return self.root / "room"

    @property
    def clock(self) -> Path:
        return self.room / "clock"

    @property
    def urls(self) -> Path:
        return self.room / "urls.json"

    @property
    def verdict(self) -> Path:
        return self.room / "verdict.json"

    def orders(self, name: str) -> Path:
        return self.room / f"orders-{name}.json"


@dataclass(frozen=True, slots=True)
class SupervisorVerdict:
    """How one supervisor of the run ended. `exit_code` is the one that its terminal would have had."""

    outcome: str
    run: str
    error_id: str
    exit_code: int
    message: str


class WrongClock(SystemClock):
    """A wall clock that is so many seconds off as a file says, from one call to the next."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now_s(self) -> float:
        return super().now_s() + float(self._path.read_text() or 0)


def spec_of(name: str, steps: int) -> RunSpec:
    """A decoder of one layer on two isolated ranks, that stops at a step which is no number."""
    return RunSpec(
        dataset="text",
        name=name,
        purpose=PURPOSE,
        model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
        train=TrainSpec(
            steps=steps,
            global_batch=4,
            warmup_steps=4,
            checkpoint_every_steps=CHECKPOINT_EVERY,
            deterministic=True,
        ),
        launch=LaunchSpec(
            restarts=1_000,
            isolation=IsolationPolicy.REQUIRED,
            isolation_probe_every_s=2.0,
            hang_after_s=HANG_S,
            hang_at_least_s=HANG_S / 2,
            standby_after_s=0.0,
            lease_s=20.0,
        ),
        evaluate=EvaluateSpec(heldout=False, baselines=False, sample_tokens=0, exposure_candidates=0),
        watch=WatchSpec(on_bad_step=OnBadStep.STOP),
    )


@contextmanager
def open_chaos_home(places: Places, clock: Clock | None = None) -> Iterator[PromiseHome]:
    """The home on the campaign's disk, whose store and keys are behind links."""
    urls = json.loads(places.urls.read_text())
    clock = clock or WrongClock(places.clock)
    home = Home(places.disk / "home").prepare()
    outside = places.root / "outside"
    outside.mkdir(exist_ok=True)
    backend = open_backend(urls["keys"], clock=clock, passphrase=None, folder=home.keys_dir)
    try:
        store = ObjectStore.open(urls["store"])
        cache = NodeCache(home.cache_dir, store, CACHE_BYTES)
        with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, clock) as ledger:
            yield PromiseHome(home, ledger, backend, store, cache, clock, outside)
    finally:
        backend.close()


def supervise(places: Places, deed: str, name: str, steps: int) -> SupervisorVerdict:
    """Start or resume the run called `name`, and say what became of it."""
    store_url = json.loads(places.urls.read_text())["store"]
    try:
        with open_chaos_home(places) as house:
            arguments: dict[str, Any] = {
                "home": house.home,
                "ledger": house.ledger,
                "backend": house.backend,
                "store_url": store_url,
                "actor": "asker",
                "progress": SILENT,
                "clock": house.clock,
                "rank_command": (sys.executable, "-P", str(WORKER), "--orders", str(places.orders(name))),
            }
            if deed == "train":
                summary = start_run(spec_of(name, steps), **arguments)
            else:
                summary = resume_run(run_called(house.ledger, name), **arguments)
    except StokerError as error:
        return SupervisorVerdict("refused", "", error.id, error.exit_code, error.message)
    why = summary.error
    told = ("", 0, "") if why is None else (why.error_id, why.exit_code, why.message)
    return SupervisorVerdict(summary.outcome.value, str(summary.run), *told)


def run_called(ledger: Ledger, name: str) -> RunId:
    """The one run of this name."""
    (found,) = [each.id for each in ledger.catalogue.runs() if each.spec["name"] == name]
    return found


def main() -> None:
    places, deed, name, steps = Places(Path(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4])
    told = supervise(places, deed, name, steps)
    write_atomic(places.verdict, json.dumps(asdict(told)).encode())


if __name__ == "__main__":
    main()
