"""Many faults on one run, one after the other, each at a moment that a seed gives.

The campaign is the operator, too: it mends what only a person can mend, and resumes the run. See
docs/design/fleet.md, "A fault campaign".
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from stoker.core.errors import StokerError
from stoker.fleet.attribution import Attribution
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.taxonomy import BY_ID, UNEXPLAINED, Component
from stoker.spec.job import CommitRef
from support.chaos.house import Places, SupervisorVerdict, open_chaos_home, run_called
from support.chaos.kinds import Cause, Course, Injected, Kind, drawn
from support.chaos.site import Site
from support.chaos.story import Story
from support.chaos.worker import draft_of
from support.promise_home import RECIPE

LOOK_S: Final = 0.02
STEPS_A_FAULT: Final = 12
ENOUGH_STEPS: Final = 2
"""So many steps after a fault show that the run has got over it."""

PATIENCE_S: Final = 600.0
"""The limit of any wait: what takes longer hangs for ever."""

CALM, STORMY = "calm", "stormy"


class HangsForEver(AssertionError):
    """Something that should have happened did not."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a failure was put down to, as a person is told it."""

    cause: Cause
    rank: int
    words: str


@dataclass(slots=True)
class Fate:
    """What became of one fault."""

    kind: Kind
    step: int
    causes: frozenset[Cause] = frozenset()
    rank: int = -1
    told: list[Told] = field(default_factory=list)
    lost_s: float = 0.0
    resumes: int = 0
    triggered: bool = False
    missed: bool = False
    """Its victim was not there any more, so nothing has to fail."""

    @property
    def failed(self) -> bool:
        return bool(self.told)

    @property
    def attributed(self) -> bool:
        """Whether each of its failures was put down to it, and to its rank where one is named."""
        ranks = {-1, self.rank} if self.rank >= 0 else {-1, 0, 1}
        return all(each.cause in self.causes and each.rank in ranks for each in self.told)


class Campaign:
    """One run through `count` faults. Use `storm` once."""

    def __init__(self, site: Site, count: int, seed: int, say: Callable[[str], None]) -> None:
        self.site = site
        self.fates: list[Fate] = []
        self.unprovoked: list[Told] = []
        self.orphans: list[dict[str, str]] = []
        self.missed = 0
        """Faults whose victim was not there any more."""
        self._kinds = drawn(count, seed)
        self._seed = seed
        self._say = say
        self._orders = site.places.orders(STORMY)
        self._number = 0
        self._explained = False
        self._ceiling = 0
        self._answered: set[int] = set()
        self._folder: RunFolder | None = None
        self._story: Story | None = None
        self._stack = contextlib.ExitStack()
        self.supervisor: subprocess.Popen[bytes] = _nobody()

    @property
    def steps(self) -> int:
        """Of the run."""
        return STEPS_A_FAULT * (len(self._kinds) + 2)

    @property
    def story(self) -> Story:
        assert self._story is not None
        return self._story

    @property
    def folder(self) -> RunFolder:
        assert self._folder is not None
        return self._folder

    # -- the two runs

    def prepare(self) -> None:
        """The home with its reviewed dataset."""
        with open_chaos_home(self.site.places) as home:
            home.found()
            home.approve(home.bring_letters("letters", count=40))
            home.prepare("text", "letters", RECIPE)

    def calm(self) -> None:
        """The undisturbed run."""
        self._write_orders(self.site.places.orders(CALM), self.steps, {})
        self._supervise("train", CALM)
        self.supervisor.wait(PATIENCE_S)
        verdict = self._verdict()
        assert verdict is not None and verdict.outcome == "finished", verdict

    def storm(self) -> None:
        """The run through all faults, to its end."""
        random = Random(self._seed)
        self._order_ceiling(1)
        self._supervise("train", STORMY)
        try:
            self._find_run()
            for number, kind in enumerate(self._kinds, 1):
                self.fates.append(self._one(number, kind, Random(random.random())))
            self._order_ceiling(self.steps)
            self._await("the run's end", lambda: self.supervisor.poll() is not None)
            while not self.story.ended:
                self._lost_supervisor(self.unprovoked)
                self._await("the run's end", lambda: self.supervisor.poll() is not None)
                self.story.read()
        finally:
            self.site.mend()
            if self.supervisor.poll() is None:
                self.supervisor.kill()
                self.supervisor.wait()

    def _one(self, number: int, kind: Kind, random: Random) -> Fate:
        """Wait for the moment, do it, and see the run over it."""
        at_step = STEPS_A_FAULT * number + random.randrange(1, 7)
        self._order_ceiling(at_step + 3)
        self._await(f"step {at_step} before {kind.name}", lambda: self._reached(at_step))
        time.sleep(random.uniform(0.0, 0.1))
        self._collect(self.unprovoked)
        fate = Fate(kind, self.story.step)
        self._order_ceiling(at_step + 7)
        begun_s = time.monotonic()
        missed = self.missed
        injected = kind.do(self, random)
        fate.missed = self.missed > missed
        fate.causes, fate.rank = injected.causes, injected.rank
        self._see_over(fate, injected, begun_s)
        self._clear_order()
        fate.lost_s = time.monotonic() - begun_s
        self._say(f"{number:4} step {fate.step:5} {kind.name:20} {fate.lost_s:6.1f} s  {_words(fate)}")
        return fate

    def _reached(self, step: int) -> bool:
        """Whether the run trains and has come to `step`; a supervisor that ended unasked is resumed."""
        if self.supervisor.poll() is not None:
            self._lost_supervisor(self.unprovoked)
        return self.story.training and self.story.step >= step

    def _see_over(self, fate: Fate, injected: Injected, begun_s: float) -> None:
        undone = False
        mark: tuple[int, int] | None = None
        trigger = injected.trigger

        def over() -> bool:
            nonlocal undone, mark, trigger
            if self.supervisor.poll() is not None:
                self._collect(fate.told)
                if not undone:
                    injected.undo()
                    undone = True
                self.site.mend()
                fate.resumes += 1
                self._lost_supervisor(fate.told)
            if not undone and not injected.trigger and time.monotonic() - begun_s >= injected.after_s:
                injected.undo()
                undone = True
            self._collect(fate.told)
            if trigger and fate.told:
                fate.triggered, trigger = True, False
                del fate.told[0]
            must_fail = fate.kind.course is not Course.GOES_ON and not (fate.told or fate.missed)
            if must_fail or not self.story.training or not (undone or injected.trigger):
                mark = None
                return False
            if mark is None or mark[0] != self.story.attempt:
                mark = (self.story.attempt, self.story.steps_told)
            got_on = self.story.steps_told - mark[1] >= ENOUGH_STEPS or self.story.step >= self._ceiling
            return got_on and injected.settled()

        self._await(f"the run to get over: {fate.kind.name}", over)
        if not undone:
            injected.undo()

    # -- the operator

    def _lost_supervisor(self, told: list[Told]) -> None:
        """Read what it said last, and resume the run, again and again as a person would."""
        verdict = self._verdict()
        if verdict is not None and verdict.outcome == "refused":
            self._explained = True
            rule = BY_ID.get(verdict.error_id)
            meaning = UNEXPLAINED if rule is None else rule.meaning
            words = f"supervisor: {verdict.error_id}"
            told.append(Told((meaning.kind, meaning.component), -1, words))
        self._supervise("resume", STORMY)

    def _supervise(self, deed: str, name: str) -> None:
        places = self.site.places
        places.verdict.unlink(missing_ok=True)
        command = [sys.executable, "-m", "support.chaos.house", str(places.root), deed, name, str(self.steps)]
        with (places.root / "supervisor.log").open("ab") as log:
            self.supervisor = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _verdict(self) -> SupervisorVerdict | None:
        path = self.site.places.verdict
        return SupervisorVerdict(**json.loads(path.read_text())) if path.exists() else None

    def _find_run(self) -> None:
        runs = self.site.places.disk / "home" / "runs"
        known = set(runs.iterdir())

        def found() -> bool:
            fresh = [each for each in runs.iterdir() if each not in known and (each / "run.json").exists()]
            if self.supervisor.poll() is not None:
                raise HangsForEver(f"the run did not begin: {self._verdict()}")
            if not fresh:
                return False
            self._folder = RunFolder(fresh[0])
            self._story = Story(self._folder.events)
            return True

        self._await("the run to begin", found, reading=False)

    def _collect(self, into: list[Told]) -> None:
        """What attempts that failed since were put down to."""
        self.story.read()
        for each in map(_told, self.story.failures):
            if each.cause[1] is Component.SUPERVISOR and self._explained:
                continue  # it had said itself what it ended of
            self._explained = False
            into.append(each)
        self.story.failures.clear()

    def _await(self, what: str, happened: Callable[[], bool], *, reading: bool = True) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not happened():
            if time.monotonic() > deadline_s:
                raise HangsForEver(f"waited {PATIENCE_S:.0f} s for {what}; {self._story}")
            time.sleep(LOOK_S)
            if reading:
                self.story.read()

    # -- what kinds of faults ask for

    def order(self, deed: str, **words: Any) -> int:
        """Have a rank do something at its next batch; the number of the deed."""
        self._number += 1
        order = {"id": self._number, "deed": deed, "from_step": 0, **words}
        self._write_orders(self._orders, self._ceiling, order)
        return self._number

    def agent(self) -> int:
        """The process that the ranks are children of."""
        for pid in self.story.pids.values():
            with contextlib.suppress(OSError):
                return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return 1 << 30

    def standby_ranks(self) -> list[int]:
        """The processes that wait for the next attempt."""
        sought = f"attempt-{self.story.attempt + 1}/job.json".encode()
        return [pid for pid, line in _command_lines() if sought in line and b"--rank" in line]

    def await_file(self, pattern: str) -> None:
        """In the run's folder."""
        self._await(pattern, lambda: any(self.folder.path.glob(pattern)))

    @contextlib.contextmanager
    def supervisor_held(self) -> Iterator[None]:
        """It does nothing meanwhile, so that what is done in the block is done at once."""
        self.supervisor.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.supervisor.send_signal(signal.SIGCONT)

    def checkpoints(self) -> str:
        """Below which the store holds the parts of the run's checkpoints."""
        return f"runs/{self.folder.path.name}/checkpoints/"

    def objects(self, home: Any, keys: Any) -> Any:
        """The run's sealed objects, in this process."""
        from stoker.intake.review_request import review_digest
        from stoker.keys.refs import KekRef
        from stoker.train.run_objects import RunObjects

        record = home.ledger.catalogue.run(run_called(home.ledger, STORMY))
        digest = review_digest(home.review)
        return RunObjects(home.store, keys, run=record.id, kek=KekRef.parse(record.kek), review_digest=digest)

    def harm_objects(self, prefix: str, random: Random, *, missing: bool) -> Callable[[], None]:
        """Objects of the store that are read at a start go, or change; the node's copies of them go, too."""
        store, cache = self.site.store, self.site.places.disk / "home" / "cache"
        with store.lock:
            names = sorted(key for key in store.objects if key.startswith(prefix))
            before = {key: store.objects[key] for key in names}
            for key in names:
                if missing:
                    del store.objects[key]
                else:
                    changed = bytearray(before[key])
                    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                    store.objects[key] = bytes(changed)
        for path in cache.rglob("*"):
            if path.is_file():
                path.unlink(missing_ok=True)

        def undo() -> None:
            with store.lock:
                store.objects.update(before)

        return undo

    def ask_orphan(self, number: int) -> bool:
        """Let an orphan try; then be one ourselves, on a node that reaches store and keys."""
        (self.site.places.room / f"go-{number}").touch()
        found = list(self.folder.path.glob(f"attempt-*/orphan-{number}.json"))
        if not found:
            return False
        if number not in self._answered:
            self._answered.add(number)
            told = json.loads(found[0].read_text())
            self.orphans.append({**told, "commit with keys and store": self._commit_late()})
        return True

    def _commit_late(self) -> str:
        """As a rank 0 of an attempt that is over, which nobody could end; what came of it."""
        from stoker.keys.partition import BackendKeySource
        from stoker.train.commit_log import Retention, state_at
        from stoker.train.commit_store import CommitLog, read_commit

        with open_chaos_home(self.site.places) as home:
            run, now = run_called(home.ledger, STORMY), self.story.attempt
            old = [each for each in home.ledger.catalogue.checkpoints(run) if each.attempt < now][-1]
            objects = self.objects(home, BackendKeySource(home.backend))
            commit = read_commit(objects, CommitRef(old.sequence, old.step, old.digest))
            log = CommitLog(objects, state_at(commit, old.digest), commit.token)
            try:
                log.commit(draft_of(log, commit.attempt, commit.token), Retention(2))
            except StokerError as error:
                return error.id
            return "done"

    # -- orders

    def _order_ceiling(self, step: int) -> None:
        self._ceiling = max(self._ceiling, min(step, self.steps))
        self._write_orders(self._orders, self._ceiling, {})

    def _clear_order(self) -> None:
        self._write_orders(self._orders, self._ceiling, {})

    def _write_orders(self, path: Path, ceiling: int, order: dict[str, Any]) -> None:
        part = path.with_suffix(f".{secrets.token_hex(4)}")
        part.write_text(json.dumps({"ceiling": ceiling, **order}))
        part.replace(path)


def _told(found: Attribution | None) -> Told:
    if found is None:
        return Told((UNEXPLAINED.kind, UNEXPLAINED.component), -1, "nothing was told")
    return Told((found.kind, found.component), found.rank, "; ".join(found.evidence[:2]))


def _words(fate: Fate) -> str:
    told = ", ".join(f"{each.cause[0]}/{each.cause[1]} rank {each.rank} ({each.words})" for each in fate.told)
    right = "" if fate.attributed else "WRONG "
    return f"{right}{told or 'no failure'}{f'; resumed {fate.resumes} times' if fate.resumes else ''}"


def _command_lines() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(entry.name), (entry / "cmdline").read_bytes()


def _nobody() -> subprocess.Popen[bytes]:
    done = subprocess.Popen(["true"])
    done.wait()
    return done


def living() -> set[int]:
    """Every process that there is in our namespace."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(int(entry.name))
    return found - {1, os.getpid()}


def places_below(root: Path) -> Places:
    return Places(root)
