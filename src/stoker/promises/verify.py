"""All promises at once: what `stoker verify` and the quickstart call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.progress import Progress
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.promises.acts import Acts, read_acts
from stoker.promises.continuity import check_continuity
from stoker.promises.decisions import check_decisions
from stoker.promises.destruction import check_destruction
from stoker.promises.figures import check_figures
from stoker.promises.house import OpenHouse
from stoker.promises.integrity import check_integrity
from stoker.promises.isolation import check_isolation
from stoker.promises.live_probe import probe_now
from stoker.promises.log import check_log
from stoker.promises.plaintext import check_plaintext, shared_folders
from stoker.promises.promise import PROMISES, Check, PromiseReport, VerifyReport, judged
from stoker.promises.runs import ToldRun, told_runs
from stoker.promises.search import Remembered
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore


class _Known:
    """What several checks need, read when the first of them asks; a failure is theirs to report."""

    def __init__(self, house: OpenHouse) -> None:
        self._house = house

    @cached_property
    def acts(self) -> Acts:
        return read_acts(self._house.ledger)

    @cached_property
    def runs(self) -> tuple[ToldRun, ...]:
        return told_runs(self._house)


def verify_promises(
    *,
    home: Home,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    cache: NodeCache,
    clock: Clock,
    progress: Progress,
    outside: Sequence[Path] | None = None,
    numbers: Collection[int] = tuple(PROMISES),
    remembered: Remembered | None = None,
) -> VerifyReport:
    """Check the promises with these `numbers` now. A check that ends in an error does not hold.

    `outside` are the folders that are searched for plaintext besides STOKER_HOME and the store; when None,
    those that every process of the machine may write to. `remembered` spares who verifies again and again
    the files there that have not changed.
    """
    began_s = clock.monotonic_s()
    house = OpenHouse(home, ledger, backend, store, cache, clock)
    known = _Known(house)
    folders = shared_folders() if outside is None else outside
    checks: dict[int, Callable[[], PromiseReport]] = {
        1: lambda: check_decisions(house, known.acts),
        2: lambda: check_plaintext(house, folders, known.acts.began_s, remembered),
        3: lambda: check_destruction(house),
        4: lambda: check_integrity(house, known.runs, known.acts, progress),
        5: lambda: check_isolation(known.runs, known.acts, probe_now()),
        6: lambda: check_continuity(house, known.runs),
        7: lambda: check_figures(house, known.runs, known.acts),
        8: lambda: check_log(house),
    }
    reports = []
    wanted = {number: check for number, check in checks.items() if number in numbers}
    with progress.task("promises", len(wanted), "promises") as task:
        for number, check in wanted.items():
            try:
                reports.append(check())
            except StokerError as error:
                reports.append(judged(number, [_unmade(f"{error.id}: {error.message}")]))
            except OSError as error:
                reports.append(judged(number, [_unmade(f"{error.strerror}: {error.filename}")]))
            task.advance()
    return VerifyReport(tuple(reports), clock.monotonic_s() - began_s)


def _unmade(why: str) -> Check:
    return Check("the check itself", False, why)
