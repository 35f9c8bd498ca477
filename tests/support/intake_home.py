"""A whole small home for tests of intake: ledger, keys, store and two people, on real files."""

from __future__ import annotations

import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stoker.core.clock import ManualClock
from stoker.core.progress import SILENT
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import scan_and_seal
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import ReviewRecord, Role
from stoker.spec.recipe import PolicySpec
from stoker.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class IntakeHome:
    """What intake's functions take, with `asker` (researcher) and `decider` (reviewer) known."""

    root: Path
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    clock: ManualClock

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def store_dir(self) -> Path:
        return self.root / "store"

    def objects(self, prefix: str) -> set[str]:
        """The names under `prefix` in the store."""
        return set(self.store.list(prefix))


@contextmanager
def intake_home(
    root: Path, *, store_dir: Path | None = None, now_s: float = 1_700_000_000.0
) -> Iterator[IntakeHome]:
    """A home under `root` at the time `now_s`; its store may lie elsewhere, say on a small file system."""
    clock = ManualClock(now_s)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    backend = open_backend(f"file://{root}/keys", clock=clock, passphrase=None)
    store = ObjectStore.open(f"file://{store_dir or root / 'store'}")
    with Ledger.open(f"sqlite:///{root}/ledger.db", root / "ledger.key", clock) as ledger:
        known = {identity.name for identity in ledger.catalogue.identities()}
        for name, role in (("asker", Role.RESEARCHER), ("decider", Role.REVIEWER)):
            if name not in known:
                create_identity(name, role, actor=None, ledger=ledger, backend=backend, clock=clock)
        yield IntakeHome(root, ledger, backend, store, clock)


def approve_source(home: IntakeHome, name: str, policy: PolicySpec, *, days: float = 60.0) -> ReviewRecord:
    """Scan the newest version of source `name`, and have its use for research asked for and approved."""
    source = home.ledger.catalogue.latest_source(name)
    report = scan_and_seal(
        source,
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        processes=1,
    )
    review = request_review(
        source,
        report.digest,
        policy,
        purpose="research",
        requested_by="asker",
        valid_s=days * 86_400.0,
        ledger=home.ledger,
        clock=home.clock,
    )
    return decide_review(
        review.id,
        approve=True,
        reason="fine",
        decided_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of `size` (such as "1m") at `folder`, for tests of a full disk."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Interfering:
    """A progress whose bar does something to the world when it first advances."""

    def __init__(self, label: str, interfere: Callable[[], None], *, after: int = 1) -> None:
        self._label = label
        self._interfere = interfere
        self._left = after

    def task(self, label: str, total: float | None, unit: str) -> InterferingTask:
        return InterferingTask(self, label.startswith(self._label))

    def advanced(self) -> None:
        """One of the watched bars moved."""
        self._left -= 1
        if self._left == 0:
            self._interfere()


class InterferingTask:
    """One bar of an Interfering progress."""

    def __init__(self, progress: Interfering, watched: bool) -> None:
        self._progress = progress
        self._watched = watched

    def __enter__(self) -> InterferingTask:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, amount: float = 1) -> None:
        if self._watched:
            self._progress.advanced()

    def describe(self, text: str) -> None:
        return None


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its wait status. A failure prints its traceback and exits 70."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the top of a process
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]
