"""A run over several nodes: each has a host and an agent of its own, reached by a command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.events import EventKind
from stoker.core.isolation import IsolationState
from stoker.core.progress import SILENT
from stoker.fleet.attempt_lock import held_lock, lock_is_free, take_lock
from stoker.fleet.errors import AgentFailed, IsolationRefused
from stoker.fleet.faults import KillRank, LoseNode
from stoker.fleet.launch import start_run
from stoker.fleet.places import Room
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Phase
from stoker.fleet.spread.reach import Reach
from stoker.fleet.spread.spread_attempt import Site
from stoker.fleet.summary import RunSummary
from stoker.fleet.verdict import Verdict
from stoker.ledger.records import RunOutcome
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, Precision, RunSpec, TrainSpec
from support.fake_house import FakeErrands, a_policy, is_alive, make_folder, supervise, told, wait_until
from support.promise_home import PURPOSE, PromiseHome, open_letters_home

K = EventKind
THREE = Room(("a", "b", "c"), 1, (2,))


@pytest.fixture
def errands(tmp_path: Path) -> FakeErrands:
    return FakeErrands(make_folder(tmp_path / "run"), steps=16)


def a_site(folder: Path, **changes: Any) -> Site:
    return Site(replace(Reach(THREE.nodes, interface="lo"), **changes), folder / "home", folder)


def placed(folder: RunFolder) -> list[object]:
    return [each.fields["placed"] for each in told(folder, K.ATTEMPT_STARTED)]


def test_ranks_of_two_nodes_finish_a_run_and_everything_of_it_is_told_once(
    errands: FakeErrands, tmp_path: Path
) -> None:
    verdict = supervise(errands, policy=a_policy(nodes=THREE), site=a_site(tmp_path))
    assert verdict.outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"]]
    assert [int(each.number("step")) for each in told(errands.folder, K.STEP)] == list(range(1, 17))
    assert {(each.rank, each.node) for each in told(errands.folder, K.RANK_SPAWNED)} == {(0, "a"), (1, "b")}
    assert len(told(errands.folder, K.ISOLATION_PROBED)) == 1
    assert held_lock(errands.folder) is None
    assert errands.folder.agent_log(1, "b").read_text() == ""


def host_of(node: str, folder: Path, *, newest: bool = True) -> int:
    """The pid of the newest host of a node, or of the oldest, as a command of this test began it."""
    mark = {f"STOKER_TEST_NODE={node}".encode(), f"STOKER_TEST_PLACE={folder}".encode()}
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words, variables = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if b"stoker.cli.node_host" in words and mark <= set(variables):
                found.append(int(process.name))
    return (max if newest else min)(found)


class Watched:
    """A supervisor in a thread, so that a test can do something to the nodes meanwhile."""

    def __init__(self, errands: FakeErrands, folder: Path, **more: Any) -> None:
        self.folder = errands.folder
        answers = more.pop("reach", {"answers": lambda node: node != "a"})
        words = ("env", "STOKER_TEST_NODE={node}", f"STOKER_TEST_PLACE={folder}")
        self._site = a_site(folder, words=words, **answers)
        self._verdicts: list[Verdict] = []
        usual: dict[str, Any] = {"policy": a_policy(nodes=THREE), "site": self._site}
        self._thread = threading.Thread(
            target=lambda: self._verdicts.append(supervise(errands, **{**usual, **more}))
        )
        self._thread.start()

    def until(self, kind: EventKind, **fields: object) -> None:
        """Wait until it was told."""

        def is_told() -> bool:
            return self.folder.events.exists() and any(
                all(each.fields.get(name) == value for name, value in fields.items())
                for each in told(self.folder, kind)
            )

        wait_until(is_told, f"{kind} {fields}")

    def verdict(self) -> Verdict:
        self._thread.join(60.0)
        assert self._verdicts, "the supervisor does not end"
        return self._verdicts[0]


def stand_still(errands: FakeErrands, attempt: int = 1) -> None:
    errands.deeds = [{"do": "stand_still", "rank": rank, "at_step": 6, "attempt": attempt} for rank in (0, 1)]


def test_a_node_from_which_nothing_is_heard_is_lost_and_a_spare_one_takes_its_place(
    errands: FakeErrands, tmp_path: Path
) -> None:
    stand_still(errands)
    run = Watched(errands, tmp_path)
    run.until(K.STEP, step=5)
    host = host_of("b", tmp_path)
    os.killpg(host, signal.SIGSTOP)
    assert run.verdict().outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"], ["a", "c"]]
    (lost,) = told(errands.folder, K.NODE_LOST)
    assert lost.text("name") == "b"
    (restart,) = told(errands.folder, K.RESTART_SCHEDULED)
    assert restart.text("reason") == "the node of rank 1 was lost"
    wait_until(lambda: held_lock(errands.folder) is None, "what was left on the lost node ends")


def test_a_link_that_ends_without_a_word_loses_the_node_when_the_node_does_not_answer(
    errands: FakeErrands, tmp_path: Path
) -> None:
    stand_still(errands)
    run = Watched(errands, tmp_path)
    run.until(K.STEP, step=5)
    os.kill(host_of("a", tmp_path), signal.SIGKILL)
    assert run.verdict().outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"], ["c", "b"]]


def test_a_host_that_is_killed_on_a_node_that_lives_is_no_loss_of_the_node(
    errands: FakeErrands, tmp_path: Path
) -> None:
    stand_still(errands)
    run = Watched(errands, tmp_path, reach={})
    run.until(K.STEP, step=5)
    os.kill(host_of("a", tmp_path), signal.SIGKILL)
    assert run.verdict().outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"]] * 2
    assert told(errands.folder, K.NODE_LOST) == []
    (ended, _) = told(errands.folder, K.ATTEMPT_ENDED)
    assert (ended.text("failure_kind"), ended.text("component")) == ("system_software", "agent")


def test_a_rank_that_is_killed_has_the_attempt_begin_again_on_the_same_nodes(
    errands: FakeErrands, tmp_path: Path
) -> None:
    stand_still(errands)
    verdict = supervise(
        errands, policy=a_policy(nodes=THREE), site=a_site(tmp_path), faults=[KillRank(1, at_step=5)]
    )
    assert verdict.outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"]] * 2
    (ended, _) = told(errands.folder, K.ATTEMPT_ENDED)
    assert (ended.number("culprit_rank"), ended.text("culprit_node")) == (1, "b")


def test_a_standby_waits_on_every_node_and_takes_over(errands: FakeErrands, tmp_path: Path) -> None:
    stand_still(errands)
    verdict = supervise(
        errands,
        policy=a_policy(nodes=THREE),
        site=a_site(tmp_path),
        standby_after_s=0.0,
        faults=[KillRank(1, at_step=5, when_loaded=True)],
    )
    assert verdict.outcome is Phase.FINISHED
    assert len(told(errands.folder, K.STANDBY_LOADED)) >= 1
    assert [int(each.number("step")) for each in told(errands.folder, K.STEP) if each.attempt == 2][-1] == 16
    assert held_lock(errands.folder) is None


def test_a_supervisor_that_is_killed_takes_the_ranks_of_every_node_along(errands: FakeErrands) -> None:
    program = Path(__file__).parents[1] / "support" / "fake_house.py"
    settings = '{"steps": 4000, "step_s": 0.02, "nodes": ["a", "b"]}'
    child = subprocess.Popen([sys.executable, str(program), str(errands.folder.path), settings])
    try:
        wait_until(lambda: bool(errands.folder.events.exists() and told(errands.folder, K.STEP)), "it trains")
        locks = [errands.folder.attempt_lock(1, node) for node in ("a", "b")]
        assert not any(map(lock_is_free, locks))
    finally:
        child.kill()
        child.wait()
    wait_until(lambda: held_lock(errands.folder) is None, "no process is left")
    pids = [int(each.number("pid")) for each in told(errands.folder, K.RANK_SPAWNED)]
    assert len(pids) == 2 and not any(map(is_alive, pids))


def test_a_standby_waits_on_spare_nodes_too_and_its_processes_become_the_ranks_that_are_wanted(
    errands: FakeErrands, tmp_path: Path
) -> None:
    stand_still(errands)
    run = Watched(errands, tmp_path, standby_after_s=0.0)
    run.until(K.STANDBY_LOADED)
    run.until(K.STEP, step=5)
    hosts = [host_of("a", tmp_path, newest=newest) for newest in (True, False)]
    for host in hosts:
        os.killpg(host, signal.SIGKILL)
    assert run.verdict().outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"], ["c", "b"]]
    started = [each for each in told(errands.folder, K.RANK_STARTED) if each.attempt == 2]
    assert {(each.rank, each.node, each.fields["waited"]) for each in started} == {
        (0, "c", True),
        (1, "b", True),
    }
    assert [each.text("name") for each in told(errands.folder, K.NODE_LOST)] == ["a"]


def test_a_spare_node_that_is_lost_while_it_waits_is_not_used(errands: FakeErrands, tmp_path: Path) -> None:
    stand_still(errands)
    errands.deeds = [
        {"do": "await_told", "rank": 0, "at_step": 4, "attempt": 1, "kind": "node_lost"},
        *errands.deeds,
    ]
    run = Watched(errands, tmp_path, standby_after_s=0.0, faults=[KillRank(1, at_step=5)])
    run.until(K.STANDBY_LOADED)
    os.killpg(host_of("c", tmp_path), signal.SIGSTOP)
    assert run.verdict().outcome is Phase.FINISHED
    assert [each.text("name") for each in told(errands.folder, K.NODE_LOST)] == ["c"]
    assert placed(errands.folder) == [["a", "b"], ["a", "b"]]
    assert all(each.fields["waited"] for each in told(errands.folder, K.RANK_STARTED) if each.attempt == 2)


def test_what_waits_without_a_host_where_it_is_wanted_is_ended_and_the_attempt_started_anew(
    errands: FakeErrands, tmp_path: Path
) -> None:
    stand_still(errands)
    run = Watched(errands, tmp_path, standby_after_s=0.0)
    run.until(K.STANDBY_LOADED)
    run.until(K.STEP, step=5)
    os.kill(host_of("c", tmp_path), signal.SIGKILL)
    os.kill(host_of("a", tmp_path, newest=False), signal.SIGKILL)
    assert run.verdict().outcome is Phase.FINISHED
    assert placed(errands.folder) == [["a", "b"], ["c", "b"]]
    started = [each for each in told(errands.folder, K.RANK_STARTED) if each.attempt == 2]
    assert [each.fields["waited"] for each in started] == [False, False]


def test_a_node_that_cannot_begin_ends_the_run_with_what_it_said(
    errands: FakeErrands, tmp_path: Path
) -> None:
    held = take_lock(errands.folder, 7, beside_others=True, part="b")
    try:
        with pytest.raises(AgentFailed, match="On node b: Processes of an earlier attempt on b still hold"):
            supervise(errands, policy=a_policy(nodes=THREE), site=a_site(tmp_path))
    finally:
        os.close(held)


SPEC = RunSpec(
    dataset="text",
    purpose=PURPOSE,
    train=TrainSpec(steps=60, checkpoint_every_steps=5, precision=Precision.FP32),
    launch=LaunchSpec(ranks=2, nodes=2, spare_nodes=1, interface="lo", standby=False),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0, exposure_candidates=0),
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[PromiseHome]:
    with open_letters_home(tmp_path) as found:
        yield found


def train(home: PromiseHome, spec: RunSpec, **more: Any) -> RunSummary:
    return start_run(
        spec,
        home=home.home,
        ledger=home.ledger,
        backend=home.backend,
        store_url=home.home.store_dir.as_uri(),
        actor="asker",
        progress=SILENT,
        clock=home.clock,
        **more,
    )


def test_real_ranks_on_two_nodes_get_their_keys_there_and_lose_nothing_with_a_node(home: PromiseHome) -> None:
    reach = Reach(THREE.nodes, interface="lo")
    summary = train(home, SPEC, reach=reach, faults=[LoseNode("b", at_step=20)])
    assert summary.outcome is RunOutcome.FINISHED
    folder = RunFolder.of(home.home.runs_dir, summary.run)
    assert placed(folder) == [["a", "b"], ["a", "c"]]
    assert summary.isolation.state is IsolationState.OPEN
    found = {int(each.number("step")): each.number("loss") for each in told(folder, K.STEP)}
    here = train(home, replace(SPEC, launch=replace(SPEC.launch, nodes=1, spare_nodes=0)))
    alone = told(RunFolder.of(home.home.runs_dir, here.run), K.STEP)
    assert found == pytest.approx({int(each.number("step")): each.number("loss") for each in alone}, rel=1e-6)
    (started, _) = told(folder, K.ATTEMPT_STARTED)
    links = started.fields["links"]
    assert isinstance(links, list)
    assert {each["name"]: each["protection"] for each in links if isinstance(each, dict)}["ranks"] == "none"


def test_a_run_that_must_be_isolated_or_have_protected_links_is_refused_on_several_nodes(
    home: PromiseHome,
) -> None:
    reach = Reach(THREE.nodes, interface="lo")
    launch = replace(SPEC.launch, isolation=IsolationPolicy.REQUIRED)
    with pytest.raises(IsolationRefused, match="over the network of their nodes"):
        train(home, replace(SPEC, launch=launch), reach=reach)
    assert list(home.home.runs_dir.iterdir()) == []
