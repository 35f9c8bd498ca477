"""Nodes in the ledger: what changed is an act, who acts at the same time follows, people have their say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.core.errors import BadName
from stoker.core.node_settings import Severity
from stoker.fleet.nodes.errors import NodeActRefused, NodeNeverSeen
from stoker.fleet.nodes.finding import CheckResult, CheckState, NodeReport
from stoker.fleet.nodes.node_acts import (
    Listing,
    check_node,
    exclude,
    node_record,
    node_records,
    record_event,
    require_possible,
    seen_in,
)
from stoker.fleet.nodes.node_machine import transition
from stoker.fleet.nodes.node_state import (
    Blamed,
    Drain,
    Event,
    JobsGone,
    NodePolicy,
    NodeState,
    Overrule,
    Phase,
    Resume,
)
from stoker.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "ledger.key", ManualClock()) as ledger:
        yield ledger


def report(*failed: str, ok: tuple[str, ...] = ("gpu_xid", "store"), now_s: float = 5.0) -> NodeReport:
    results = [CheckResult(each, CheckState.FAIL, "broken", Severity.DRAIN_AFTER, 0.0) for each in failed]
    results += [CheckResult(each, CheckState.OK, "fine", None, 0.0) for each in ok if each not in failed]
    return NodeReport("n1", now_s, 0.1, tuple(results))


def test_what_changes_nothing_is_not_recorded(ledger: Ledger) -> None:
    change = record_event(ledger, "n1", seen_in(report()), actor="checker")
    assert not change.recorded
    assert ledger.audit.size == 0


def test_the_way_out_and_back_stands_in_the_log(ledger: Ledger) -> None:
    events: list[Event] = [
        seen_in(report("store")),
        JobsGone(6.0),
        seen_in(report()),
        seen_in(report()),
        Blamed(7.0, "rank 3 hung"),
        Drain(8.0, "eve", "firmware"),
        Resume(9.0, "eve", "no"),
    ]
    state = NodeState()
    for each in events:
        state, instructions = transition(NodePolicy(), state, each)
        change = record_event(ledger, "n1", each, actor="eve")
        assert (change.after, list(change.instructions)) == (state, instructions)
    record = node_record(ledger, "n1")
    assert record.state == state
    told = [(each.action, each.detail["from"], each.detail["to"]) for each in record.history]
    assert told == [
        ("node.check", "healthy", "draining"),
        ("node.empty", "draining", "drained"),
        ("node.check", "drained", "returning"),
        ("node.check", "returning", "healthy"),
        ("node.blame", "healthy", "suspect"),
        ("node.drain", "suspect", "draining"),
        ("node.resume", "draining", "healthy"),
    ]
    assert "broken" in str(record.history[0].detail["event"])
    assert ledger.audit.verify().holds


def test_evidence_of_the_kernels_own_words_is_kept_and_a_state_survives_the_ledger(ledger: Ledger) -> None:
    record_event(ledger, "n1", Drain(1.0, "eve", "x"), actor="eve")
    record_event(ledger, "n1", seen_in(report("gpu_xid")), actor="checker")
    record_event(ledger, "n1", JobsGone(2.0), actor="checker")
    record_event(ledger, "n1", Overrule(3.0, "eve", "known", 99.0), actor="eve")
    assert node_record(ledger, "n1").state.overruled[0].check == "gpu_xid"
    assert node_record(ledger, "n1").state.takes_work


def test_acts_at_the_same_time_follow_one_another(ledger: Ledger) -> None:
    """Each of many people drains; every act is decided on what the one before left."""
    threads = [
        threading.Thread(
            target=lambda n=n: record_event(ledger, "n1", Drain(float(n), f"p{n}", "x"), actor=f"p{n}")
        )
        for n in range(6)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    record = node_record(ledger, "n1")
    assert sorted(each.by for each in record.state.reasons) == [f"p{n}" for n in range(6)]
    assert len(record.history) == 6


def test_people_list_and_unlist_a_node_with_a_reason(ledger: Ledger) -> None:
    with pytest.raises(NodeActRefused):
        exclude(ledger, "n1", Listing.ALWAYS, " ", actor="eve")
    exclude(ledger, "n1", Listing.ALWAYS, "slow", actor="eve")
    assert node_record(ledger, "n1").listing is Listing.ALWAYS
    assert node_record(ledger, "n1").state == NodeState()
    exclude(ledger, "n1", Listing.NEVER, "was mended", actor="eve")
    record_event(ledger, "n2", Drain(1.0, "eve", "x"), actor="eve")
    found = {each.name: (each.listing, each.state.phase) for each in node_records(ledger)}
    assert found == {
        "n1": (Listing.NEVER, Phase.HEALTHY),
        "n2": (Listing.BY_SCORE, Phase.DRAINING),
    }


def test_unknown_nodes_and_impossible_acts_are_refused(ledger: Ledger) -> None:
    with pytest.raises(NodeNeverSeen, match="n9"):
        node_record(ledger, "n9")
    record_event(ledger, "n1", Drain(1.0, "eve", "x", now=True), actor="eve")
    with pytest.raises(NodeActRefused, match="is out"):
        require_possible(ledger, "n1", Overrule, "")
    require_possible(ledger, "n1", Resume, "")


@pytest.mark.parametrize("name", ["", "../x", "a b", "n1\n", "-n", "x" * 200, "n,m"])
def test_what_is_no_name_of_a_node_is_refused(name: str) -> None:
    with pytest.raises(BadName):
        check_node(name)
    assert check_node("Node-01.cluster_a") == "Node-01.cluster_a"
