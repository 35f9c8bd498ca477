"""Every check with what its failure asks for, and how they are run: at once, each within its time.

A check that is still at it when its time is over counts as failed and says so; its thread is left behind,
and ends with the process. See docs/design/nodes.md, "Checks".
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.core.node_settings import NodeSettings, Severity
from stoker.fleet.nodes import (
    clock_skew,
    determinism,
    disks,
    gpu,
    kernel_log,
    network,
    processes,
    processor,
    services,
)
from stoker.fleet.nodes.external import external
from stoker.fleet.nodes.finding import CheckResult, CheckState, Finding, NodeReport, one_line
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable

Look: TypeAlias = Callable[[MachineView], Finding]

WHOLE_LIMIT_S: Final = 4.8
"""The whole report takes no longer, whatever hangs."""

WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, how it looks, what a failure asks for, and how long it may take."""

    name: str
    look: Look
    severity: Severity
    limit_s: float | None = None


_EVICT, _DRAIN = Severity.EVICT_NOW, Severity.DRAIN_AFTER

CHECKS: Final = (
    Check("cpu_count", processor.cpu_count, _DRAIN),
    Check("cpu_clock", processor.cpu_clock, _DRAIN),
    Check("memory_size", processor.memory_size, _DRAIN),
    Check("memory_errors", processor.memory_errors, _EVICT),
    Check("disk_space", disks.disk_space, _DRAIN),
    Check("disk_inodes", disks.disk_inodes, _DRAIN),
    Check("disk_read_only", disks.disk_read_only, _EVICT),
    Check("disk_latency", disks.disk_latency, _DRAIN),
    Check("mounts", disks.mounts, _EVICT),
    Check("time_skew", clock_skew.time_skew, _DRAIN),
    Check("zombies", processes.zombies, _DRAIN),
    Check("blocked_processes", processes.blocked_processes, _DRAIN),
    Check("leftover_processes", processes.leftover_processes, _DRAIN),
    Check("kernel_errors", kernel_log.kernel_errors, _DRAIN),
    Check("interfaces", network.interfaces, _EVICT),
    Check("interface_errors", network.interface_errors, _DRAIN),
    Check("loopback_bandwidth", network.loopback_bandwidth, _DRAIN),
    Check("peer_bandwidth", network.peer_bandwidth, _DRAIN),
    Check("infiniband", network.infiniband, _EVICT),
    Check("gpu_count", gpu.gpu_count, _EVICT),
    Check("gpu_ecc", gpu.gpu_ecc, _EVICT),
    Check("gpu_remapped_rows", gpu.gpu_remapped_rows, _DRAIN),
    Check("gpu_xid", kernel_log.gpu_xid, _EVICT),
    Check("gpu_nvlink", gpu.gpu_nvlink, _EVICT),
    Check("gpu_pcie", gpu.gpu_pcie, _DRAIN),
    Check("gpu_temperature", gpu.gpu_temperature, _DRAIN),
    Check("gpu_clocks", gpu.gpu_clocks, _DRAIN),
    Check("gpu_power_cap", gpu.gpu_power_cap, _DRAIN),
    Check("gpu_driver", gpu.gpu_driver, _DRAIN),
    Check("key_service", services.key_service, _DRAIN),
    Check("store", services.store, _DRAIN),
    Check("isolation", services.isolation, _DRAIN),
    Check("determinism", determinism.determinism, _EVICT),
)


def checks_for(settings: NodeSettings) -> tuple[Check, ...]:
    """Our checks and then those of others; a program of others may not take the name of one of ours."""
    others = tuple(
        Check(f"external_{each.name}", external(each), each.severity, each.limit_s)
        for each in settings.external
    )
    return CHECKS + others


def run_checks(
    view: MachineView,
    node: str,
    checks: Sequence[Check] | None = None,
    *,
    whole_limit_s: float = WHOLE_LIMIT_S,
) -> NodeReport:
    """Every check of `checks`, or of the settings; takes at most `whole_limit_s`."""
    wanted = checks_for(view.settings) if checks is None else tuple(checks)
    checked_s, began_s = view.clock.now_s(), time.monotonic()
    runs = [_Run(each, view, each.limit_s or view.settings.limit_s) for each in wanted]
    waiting: queue.SimpleQueue[_Run] = queue.SimpleQueue()
    for run in runs:
        waiting.put(run)
    deadline_s = began_s + whole_limit_s
    workers = _Workers(waiting, deadline_s)
    workers.add(min(WORKERS, len(runs)))
    results = tuple(run.result(workers, deadline_s) for run in runs)
    return NodeReport(node, checked_s, time.monotonic() - began_s, results)


class _Run:
    """One check under way. Its time begins when a thread takes it."""

    def __init__(self, check: Check, view: MachineView, limit_s: float) -> None:
        self.check = check
        self._view = view
        self._limit_s = limit_s
        self._began_s: float | None = None
        self._begun = threading.Event()
        self._done = threading.Event()
        self._result: CheckResult | None = None

    def carry_out(self) -> None:
        """Look, and keep what was found."""
        self._began_s = time.monotonic()
        self._begun.set()
        answered = True
        try:
            found = self.check.look(self._view)
        except Absent as error:
            found = Finding(CheckState.NOT_PRESENT, str(error))
        except Unreadable as error:
            found, answered = Finding(CheckState.FAIL, f"no figure: {error}"), False
        except Exception as error:  # noqa: BLE001 - one broken check must not take the others with it
            found = Finding(CheckState.FAIL, f"the check broke: {type(error).__name__}: {error}")
            answered = False
        self._result = self._told(found, answered, time.monotonic() - self._began_s)
        self._done.set()

    def result(self, workers: _Workers, deadline_s: float) -> CheckResult:
        """The result, waited for until the check's own time or the whole report's is over."""
        self._begun.wait(max(0.0, deadline_s - time.monotonic()))
        if self._began_s is None:
            none = Finding(CheckState.FAIL, "no figure: the time of the whole report was over before")
            return self._told(none, False, 0.0)
        ends_s = min(self._began_s + self._limit_s, deadline_s)
        ended = self._done.wait(max(0.0, ends_s - time.monotonic()))
        if ended and self._result is not None and self._result.took_s <= self._limit_s:
            return self._result
        if not ended:
            workers.add(1)
        took_s = self._limit_s if self._result is None else self._result.took_s
        late = Finding(CheckState.FAIL, f"no figure: no answer within {self._limit_s:.1f} s")
        return self._told(late, False, took_s)

    def _told(self, found: Finding, answered: bool, took_s: float) -> CheckResult:
        severity = None
        if found.state is CheckState.FAIL:
            severity = self.check.severity if answered else Severity.DRAIN_AFTER
        evidence = one_line(found.evidence)
        return CheckResult(self.check.name, found.state, evidence, severity, took_s, answered)


class _Workers:
    """Threads that take checks one after another; one more is begun for each that hangs."""

    def __init__(self, waiting: queue.SimpleQueue[_Run], deadline_s: float) -> None:
        self._waiting = waiting
        self._deadline_s = deadline_s

    def add(self, count: int) -> None:
        """Begin `count` threads that nobody waits for when the process ends."""
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while time.monotonic() < self._deadline_s:
            try:
                run = self._waiting.get_nowait()
            except queue.Empty:
                return
            run.carry_out()
