"""Our checks as Slurm's health check, prolog and epilog: the decision, and a real Slurm that is told."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.home import Home
from stoker.core.node_settings import Severity
from stoker.fleet.launchers import NodeState, NodeView
from stoker.fleet.nodes.finding import CheckResult, CheckState, NodeReport
from stoker.fleet.nodes.slurm_hook import Deed, Hook, decide, hook_of, silent_in, swap_silent
from support.slurm_testbed import Slurm, slurm_testbed

EVICT, DRAIN = Severity.EVICT_NOW, Severity.DRAIN_AFTER
OURS = "stoker gpu_xid: Xid 79"
CHECK = (sys.executable, "-m", "stoker.cli", "node", "check", "--for", "slurm")


def report(
    *failed: tuple[str, Severity, bool], ok: tuple[str, ...] = ("gpu_xid", "store"), warn: str = ""
) -> NodeReport:
    results = [CheckResult(name, CheckState.FAIL, "a|b=c", level, 0.0, said) for name, level, said in failed]
    results += [CheckResult(name, CheckState.OK, "", None, 0.0) for name in ok]
    results += [CheckResult(warn, CheckState.WARN, "", None, 0.0)] if warn else []
    return NodeReport("n1", 0.0, 0.0, tuple(results))


def deed(found: NodeReport, state: NodeState, reason: str = "", hook: Hook = Hook.HEALTH) -> Deed:
    return decide(hook, found, NodeView("n1", state, reason), ()).deed


def test_failures_drain_or_give_up_and_a_reason_of_others_stays() -> None:
    drain, evict = report(("store", DRAIN, True)), report(("gpu_xid", EVICT, True))
    assert deed(drain, NodeState.UP) is Deed.DRAIN
    assert deed(evict, NodeState.UP) is Deed.GIVE_UP
    assert deed(evict, NodeState.DRAINING, "maintenance") is Deed.GIVE_UP
    for state in (NodeState.DRAINING, NodeState.DRAINED, NodeState.DOWN):
        assert deed(drain, state, "maintenance") is Deed.NOTHING
    assert deed(evict, NodeState.DOWN) is Deed.NOTHING
    act = decide(Hook.HEALTH, drain, NodeView("n1", NodeState.UP), ())
    assert (act.reason, act.refuses) == ("stoker store: a/b c", False)


def test_only_what_we_took_out_returns_and_only_when_every_check_passes() -> None:
    clean = report()
    for state in (NodeState.DRAINED, NodeState.DRAINING, NodeState.DOWN):
        assert deed(clean, state, OURS) is Deed.RESUME
        assert deed(clean, state, "maintenance by eve") is Deed.NOTHING
    assert deed(clean, NodeState.UP) is Deed.NOTHING
    assert deed(report(warn="zombies"), NodeState.DRAINED, OURS) is Deed.NOTHING
    assert deed(report(ok=("store",)), NodeState.DRAINED, OURS) is Deed.NOTHING, "gpu_xid saw nothing"


def test_a_prolog_refuses_the_job_whenever_something_failed() -> None:
    drained = NodeView("n1", NodeState.DRAINING, "x")
    assert decide(Hook.PROLOG, report(("store", DRAIN, True)), drained, ()).refuses
    assert not decide(Hook.PROLOG, report(warn="zombies"), drained, ()).refuses


def test_silence_counts_the_second_time(tmp_path: Path) -> None:
    silent = report(("mounts", DRAIN, False))
    assert deed(silent, NodeState.UP) is Deed.NOTHING
    before = swap_silent(tmp_path, "n1", silent_in(silent))
    assert before == ()
    before = swap_silent(tmp_path, "n1", silent_in(silent))
    assert decide(Hook.HEALTH, silent, NodeView("n1", NodeState.UP), before).deed is Deed.DRAIN
    assert swap_silent(tmp_path, "n1", ()) == ("mounts",)
    assert swap_silent(tmp_path / "nowhere", "n1", ("x",)) == ()


def test_the_hook_is_told_by_slurms_own_word() -> None:
    assert hook_of({}) is Hook.HEALTH
    assert hook_of({"SLURM_SCRIPT_CONTEXT": "prolog_slurmd", "SLURM_JOB_ID": "7"}) is Hook.PROLOG
    assert hook_of({"SLURM_SCRIPT_CONTEXT": "epilog_slurmd"}) is Hook.EPILOG


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with slurm_testbed() as found:
        yield found


def node_of(slurm: Slurm, node: str) -> str:
    return slurm.say("scontrol", "show", "node", "--oneliner", node)


def settings(home: Path, text: str) -> None:
    Home(home).prepare()
    (home / "stoker.toml").write_text(f"[nodes]\nlimit_s = 4.0\n{text}\n")
    (home / "stoker.toml").chmod(0o600)


def look(slurm: Slurm, home: Path, node: str) -> str:
    """As slurmd calls a health check: an almost empty environment."""
    words = [*CHECK, "--node", node, "--home", str(home)]
    environment = {"SLURM_CONF": str(slurm.conf)}
    done = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_real_slurm_drains_gives_up_and_takes_back(slurm: Slurm, tmp_path: Path) -> None:
    settings(tmp_path, "cpus = 4096")
    assert "slurm health: drain (stoker cpu_count" in look(slurm, tmp_path, "node1")
    assert "DRAIN" in node_of(slurm, "node1")
    assert "Reason=stoker cpu_count" in node_of(slurm, "node1")
    settings(tmp_path, 'external = [{name = "bad", command = ["false"], severity = "evict-now"}]')
    assert "slurm health: give up (stoker external_bad" in look(slurm, tmp_path, "node2")
    assert "State=DOWN" in node_of(slurm, "node2")
    settings(tmp_path, "")
    for _ in range(20):  # a busy machine may warn of blocked processes, and then nothing returns
        if "slurm health: resume" in look(slurm, tmp_path, "node1"):
            break
    assert "DRAIN" not in node_of(slurm, "node1")
    assert "State=DOWN" in node_of(slurm, "node2")


def test_a_real_prolog_sends_the_job_away_and_drains_with_our_reason(slurm: Slurm, tmp_path: Path) -> None:
    """Called by slurmd itself, which says that this is a prolog, and on which node."""
    settings(tmp_path, "cpus = 4096")
    prolog, said = slurm.root / "etc/prolog.sh", tmp_path / "said"
    command = " ".join([*CHECK, "--home", str(tmp_path)])
    prolog.write_text(
        f"#!/bin/sh\nexport SLURM_CONF={slurm.conf} PATH=/usr/bin:/bin\n"
        f"cd {tmp_path}\nexec {command} >> {said} 2>&1\n"
    )
    prolog.chmod(0o755)
    with slurm.conf.open("a") as conf:
        conf.write(f"Prolog={prolog}\n")
    slurm.say("scontrol", "reconfigure")
    wrapped = ["--output=/dev/null", "--wrap", f"touch {tmp_path}/ran"]
    job = slurm.say("sbatch", "--parsable", "--nodelist=node3", *wrapped).strip()
    deadline = time.monotonic() + 60
    while "Reason=" not in node_of(slurm, "node3") and time.monotonic() < deadline:
        time.sleep(0.2)
    slurm.say("scancel", job)
    assert "Reason=stoker cpu_count" in node_of(slurm, "node3"), said.read_text()
    assert "slurm prolog: drain (stoker cpu_count" in said.read_text()
    assert not (tmp_path / "ran").exists()
