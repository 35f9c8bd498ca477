"""Checks at once, each within its time: one that hangs, breaks or prints garbage stands for itself alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.config import Layer, load
from stoker.core.errors import ConfigError
from stoker.core.node_settings import ExternalCheck, Severity
from stoker.core.settings import Settings
from stoker.fleet.nodes.checks import CHECKS, Check, checks_for, run_checks
from stoker.fleet.nodes.finding import MAX_EVIDENCE, CheckState, Finding, NodeReport, ok, one_line
from stoker.fleet.nodes.machine_view import MachineView, Unreadable
from support.machine_tree import MachineTree, sound_machine

PATIENT_S = 120.0
"""A machine that runs other tests may be slow; what is to answer is given all the time it needs."""

EVICT, DRAIN = Severity.EVICT_NOW, Severity.DRAIN_AFTER


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return sound_machine(tmp_path)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets hanging checks go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def good(view: MachineView) -> Finding:
    return ok("fine")


def test_every_name_is_given_once_and_there_are_about_thirty() -> None:
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names) >= 30


def test_a_sound_machine_has_no_finding(tree: MachineTree) -> None:
    """All checks as they stand but those of time and speed, which a busy machine may fail."""
    sound = [each for each in CHECKS if each.name not in {"loopback_bandwidth", "determinism"}]
    report = run_checks(tree.view(limit_s=PATIENT_S), "n1", sound, whole_limit_s=PATIENT_S)
    assert report.findings == ()
    assert report.severity is None
    assert len(report.of(CheckState.OK)) >= 25


def test_a_check_that_hangs_is_told_as_such_and_the_others_answer(
    tree: MachineTree, release: threading.Event
) -> None:
    def hang(view: MachineView) -> Finding:
        release.wait()
        return ok("too late")

    checks = [*(Check(f"hangs{n}", hang, EVICT, 0.05) for n in range(10)), Check("good", good, EVICT)]
    report = run_checks(tree.view(limit_s=PATIENT_S), "n1", checks, whole_limit_s=PATIENT_S)
    *hung, last = report.results
    assert {(each.state, each.answered, each.severity) for each in hung} == {(CheckState.FAIL, False, DRAIN)}
    assert "no answer within" in hung[0].evidence
    assert (last.state, last.answered) == (CheckState.OK, True)


def test_an_answer_after_the_time_does_not_count(tree: MachineTree) -> None:
    came = threading.Event()

    def late(view: MachineView) -> Finding:
        came.wait(0.2)
        return ok("a figure")

    report = run_checks(tree.view(), "n1", [Check("late", late, EVICT, 0.1)])
    assert (report.results[0].state, report.results[0].answered) == (CheckState.FAIL, False)


def test_a_check_that_breaks_is_a_failure_of_its_own(tree: MachineTree) -> None:
    def broken(view: MachineView) -> Finding:
        raise KeyError("x")

    def unreadable(view: MachineView) -> Finding:
        raise Unreadable("garbage")

    checks = [Check("a", broken, EVICT), Check("b", unreadable, EVICT), Check("c", good, EVICT)]
    a, b, c = run_checks(tree.view(limit_s=PATIENT_S), "n1", checks, whole_limit_s=PATIENT_S).results
    assert (a.state, a.severity, a.answered) == (CheckState.FAIL, DRAIN, False)
    assert (b.evidence, b.severity) == ("no figure: garbage", DRAIN)
    assert c.state is CheckState.OK


def test_the_report_asks_for_the_worse_of_what_failed(tree: MachineTree) -> None:
    def bad(view: MachineView) -> Finding:
        return Finding(CheckState.FAIL, "bad")

    def asked(*checks: Check) -> Severity | None:
        return run_checks(tree.view(limit_s=PATIENT_S), "n1", checks, whole_limit_s=PATIENT_S).severity

    assert asked(Check("a", bad, DRAIN), Check("b", bad, EVICT)) is EVICT
    assert asked(Check("a", bad, DRAIN), Check("b", good, EVICT)) is DRAIN


def external(tree: MachineTree, script: str, **more: object) -> NodeReport:
    tree.program("judge", f"#!/bin/sh\n{script}\n")
    wanted = ExternalCheck("judge", ("judge", "-x"), warn=(1,), severity=EVICT, **more)  # type: ignore[arg-type]
    (check,) = checks_for(tree.view(external=(wanted,)).settings)[len(CHECKS) :]
    return run_checks(tree.view(limit_s=PATIENT_S), "n1", [check], whole_limit_s=PATIENT_S)


@pytest.mark.parametrize(
    ("code", "state", "severity"),
    [(0, CheckState.OK, None), (1, CheckState.WARN, None), (2, CheckState.FAIL, EVICT)],
)
def test_the_exit_code_of_an_external_check_decides(
    tree: MachineTree, code: int, state: CheckState, severity: Severity | None
) -> None:
    (result,) = external(tree, f"echo all well 42; exit {code}", limit_s=PATIENT_S).results
    assert (result.state, result.severity) == (state, severity)
    assert result.evidence == f"exit code {code}: all well 42"


def test_an_external_check_ended_by_a_signal_has_failed(tree: MachineTree) -> None:
    (result,) = external(tree, "kill -9 $$", limit_s=PATIENT_S).results
    assert (result.state, result.evidence) == (CheckState.FAIL, "ended by signal 9, nothing printed")


def lives(stat: Path) -> bool:
    try:
        return stat.read_text().split(") ")[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_external_check_that_runs_for_ever_is_ended_with_all_its_children(tree: MachineTree) -> None:
    (result,) = external(tree, f"sleep 1000 & echo $! > {tree.root}/pid; wait", limit_s=2.0).results
    assert (result.state, result.severity, result.answered) == (CheckState.FAIL, DRAIN, False)
    child = Path("/proc") / (tree.root / "pid").read_text().strip() / "stat"
    deadline = time.monotonic() + PATIENT_S
    while lives(child):  # it was killed, and a busy machine lets it end when it comes to that
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_external_check_that_prints_garbage_without_end_is_only_shown(tree: MachineTree) -> None:
    (ends,) = external(tree, "head -c 3000000 /dev/urandom; exit 0", limit_s=PATIENT_S).results
    assert ends.state is CheckState.OK
    assert len(ends.evidence) <= MAX_EVIDENCE
    assert ends.evidence.isprintable()
    (never,) = external(tree, "cat /dev/zero", limit_s=0.3).results
    assert (never.state, never.answered) == (CheckState.FAIL, False)


def test_an_external_program_that_is_not_installed_is_not_present(tree: MachineTree) -> None:
    wanted = ExternalCheck("nhc", ("no-such-nhc",))
    check = checks_for(tree.view(external=(wanted,)).settings)[-1]
    (result,) = run_checks(tree.view(), "n1", [check]).results
    assert (result.name, result.state) == ("external_nhc", CheckState.NOT_PRESENT)


def test_settings_of_nodes_are_read_and_their_mistakes_are_named() -> None:
    body = {"nodes": {"gpus": 8, "external": [{"name": "nhc", "command": ["/usr/sbin/nhc"], "limit_s": 3.0}]}}
    settings = load(Settings, [Layer("site", body)]).value.nodes
    assert (settings.gpus, settings.external[0].command) == (8, ("/usr/sbin/nhc",))
    twice = {"name": "nhc", "command": [], "limit_s": 9.0}
    wrong = {"nodes": {"peer": "nowhere", "limit_s": 60.0, "external": [twice, twice]}}
    with pytest.raises(ConfigError) as refused:
        load(Settings, [Layer("site", wrong)])
    for part in ("peer", "limit_s = 60.0", "limit_s = 9.0", "twice", "is empty"):
        assert part in refused.value.message


def test_evidence_is_one_printable_line() -> None:
    assert one_line("a\n\x1b[31mb\tc") == "a ?[31mb c"
    assert len(one_line("x" * 10_000)) == MAX_EVIDENCE
