"""All promises at once: what `stoker verify` and the quickstart call."""

from __future__ import annotations

from collections.abc import Callable

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.progress import Progress
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.promises.continuity import check_continuity
from stoker.promises.decisions import check_decisions
from stoker.promises.destruction import check_destruction
from stoker.promises.figures import check_figures
from stoker.promises.house import OpenHouse
from stoker.promises.integrity import check_integrity
from stoker.promises.isolation import check_isolation
from stoker.promises.log import check_log
from stoker.promises.plaintext import check_plaintext
from stoker.promises.promise import Check, PromiseReport, VerifyReport, judged
from stoker.promises.runs import told_runs
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore


def verify_promises(
    *,
    home: Home,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    cache: NodeCache,
    clock: Clock,
    progress: Progress,
) -> VerifyReport:
    """Check all eight promises now. A check that ends in an error is a check that does not hold."""
    began_s = clock.monotonic_s()
    house = OpenHouse(home, ledger, backend, store, cache, clock)
    runs = told_runs(house)
    checks: dict[int, Callable[[], PromiseReport]] = {
        1: lambda: check_decisions(house),
        2: lambda: check_plaintext(house),
        3: lambda: check_destruction(house),
        4: lambda: check_integrity(house, runs, progress),
        5: lambda: check_isolation(runs),
        6: lambda: check_continuity(house, runs),
        7: lambda: check_figures(house, runs),
        8: lambda: check_log(house),
    }
    reports = []
    with progress.task("promises", len(checks), "promises") as task:
        for number, check in checks.items():
            try:
                reports.append(check())
            except StokerError as error:
                reports.append(
                    judged(number, [Check("the check itself", False, f"{error.id}: {error.message}")])
                )
            task.advance()
    return VerifyReport(tuple(reports), clock.monotonic_s() - began_s)
