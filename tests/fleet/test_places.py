"""Nodes of a run: spare ones take over, the world shrinks to what fits, and grows when a node is back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.events import EventKind
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.faults import LoseNode
from stoker.fleet.goodput import account
from stoker.fleet.launch import room_of, start_run
from stoker.fleet.places import Room, one_node
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Phase
from stoker.ledger.records import RunOutcome
from stoker.spec.layout import LayoutSpec
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from support.fake_house import FakeErrands, a_policy, make_folder, supervise, told
from support.promise_home import PURPOSE, PromiseHome, open_letters_home
from support.watching import Watching

K = EventKind
FOUR = Room(("a", "b", "c", "d"), 2, (4, 2))
"""Two nodes of two ranks, and two spare ones; one node will do."""


def test_a_spare_node_takes_the_place_of_a_lost_one_and_the_others_stay() -> None:
    first = FOUR.place()
    assert first == ("a", "a", "b", "b")
    assert FOUR.place({"a"}, first) == ("c", "c", "b", "b")
    assert FOUR.place({"b", "c"}, first) == ("a", "a", "d", "d")


def test_the_world_shrinks_to_what_fits_and_grows_again() -> None:
    small = FOUR.place({"a", "c", "d"}, FOUR.place())
    assert small == ("b", "b")
    assert FOUR.place({"a", "d"}, small) == ("b", "b", "c", "c")
    assert FOUR.place({"a", "b", "c", "d"}, small) == ()
    assert Room(("a", "b"), 2, (4,)).place({"b"}) == ()


def test_one_node_is_a_room_of_its_own() -> None:
    assert one_node(3).place() == ("local",) * 3


@given(
    st.lists(st.sets(st.sampled_from("abcde"), max_size=5), min_size=1, max_size=8),
    st.sampled_from([(6, 4, 2), (4, 2), (4,), (6, 2)]),
)
def test_a_place_is_the_largest_that_fits_on_living_nodes_and_moves_nobody_in_vain(
    losses: list[set[str]], worlds: tuple[int, ...]
) -> None:
    room = Room(tuple("abcde"), 2, worlds)
    before: tuple[str, ...] = ()
    for lost in losses:
        place = room.place(lost, before)
        living = 2 * (5 - len(lost))
        assert len(place) == next((each for each in worlds if each <= living), 0)
        assert not set(place) & lost
        assert all(place.count(node) == 2 for node in place)
        shared = min(len(place), len(before))
        for rank in range(shared):
            assert place[rank] == before[rank] or before[rank] in lost
        before = place or before


def test_which_worlds_fit_is_asked_of_layout_and_batch() -> None:
    spec = RunSpec(dataset="text", train=TrainSpec(global_batch=8), launch=LaunchSpec(ranks=4, nodes=4))
    assert room_of(spec, ()).worlds == (4, 2, 1)
    whole = replace(spec, launch=replace(spec.launch, shrink=False))
    assert room_of(whole, ()).worlds == (4,)
    untied = replace(spec, model=replace(spec.model, tied_embeddings=False))
    pipelines = replace(untied, layout=LayoutSpec(pp=2, micro_batches=2))
    assert room_of(pipelines, ()).worlds == (4, 2)
    assert room_of(replace(spec, launch=LaunchSpec(ranks=4)), ()) == one_node(4)


@pytest.fixture
def errands(tmp_path: Path) -> FakeErrands:
    house = FakeErrands(make_folder(tmp_path / "run"), steps=16)
    house.deeds = [{"do": "stand_still", "rank": rank, "at_step": 6, "attempt": 1} for rank in (0, 1)]
    return house


def places(folder: RunFolder) -> list[list[object]]:
    found = []
    for event in told(folder, K.ATTEMPT_STARTED):
        nodes = event.fields["placed"]
        assert isinstance(nodes, list) and len(nodes) == event.number("world_size")
        found.append(nodes)
    return found


def test_a_lost_node_is_replaced_by_a_spare_one(errands: FakeErrands) -> None:
    policy = a_policy(nodes=Room(("a", "b", "c"), 1, (2,)))
    verdict = supervise(errands, policy=policy, faults=[LoseNode("a", at_step=5)])
    assert verdict.outcome is Phase.FINISHED
    assert places(errands.folder) == [["a", "b"], ["c", "b"]]
    (lost,) = told(errands.folder, K.NODE_LOST)
    assert lost.text("name") == "a"
    (restart,) = told(errands.folder, K.RESTART_SCHEDULED)
    assert restart.text("reason") == "the node of rank 0 was lost"
    assert {(one.attempt, one.node) for one in told(errands.folder, K.STEP)} == {(1, "a"), (2, "c")}
    assert held_lock(errands.folder) is None


def test_a_run_goes_on_smaller_and_grows_at_the_next_checkpoint_when_the_node_is_back(
    errands: FakeErrands,
) -> None:
    back = {"do": "await_told", "rank": 0, "at_step": 9, "attempt": 2, "kind": "node_back"}
    errands.deeds = [*errands.deeds, back]
    policy = a_policy(nodes=Room(("a", "b"), 1, (2, 1)), restarts=1)
    verdict = supervise(errands, policy=policy, faults=[LoseNode("b", at_step=5, back_at_step=7)])
    assert verdict.outcome is Phase.FINISHED
    assert places(errands.folder) == [["a", "b"], ["a"], ["a", "b"]]
    endings = [one.text("outcome") for one in told(errands.folder, K.ATTEMPT_ENDED)]
    assert endings == ["failed", "regrouped", "finished"]
    (_, again) = told(errands.folder, K.RESTART_SCHEDULED)
    assert again.text("reason") == "a node came back"
    events = told(errands.folder, *EventKind)
    at = next(n for n, one in enumerate(events) if one.kind is K.ATTEMPT_ENDED and one.attempt == 2)
    committed = [one for one in events[:at] if one.kind is K.CHECKPOINT_COMMITTED][-1]
    resumed = told(errands.folder, K.ATTEMPT_STARTED)[2]
    assert resumed.number("resume_step") == committed.number("step")
    goodput = account(events)
    assert (goodput.failures, goodput.attempts) == (1, 3)
    assert sum(goodput.seconds.values()) == pytest.approx(goodput.wall_s)


def test_a_run_with_too_few_nodes_ends_and_says_so(errands: FakeErrands) -> None:
    policy = a_policy(nodes=Room(("a", "b"), 1, (2,)))
    verdict = supervise(errands, policy=policy, faults=[LoseNode("b", at_step=5)])
    assert verdict.outcome is Phase.FAILED
    assert verdict.error is not None and "too few nodes are left" in verdict.error.message


SPEC = RunSpec(
    dataset="text",
    purpose=PURPOSE,
    model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(steps=40, global_batch=2, warmup_steps=2, checkpoint_every_steps=4),
    launch=LaunchSpec(ranks=2, nodes=2, restarts=1, isolation=IsolationPolicy.REQUIRED, standby=False),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0, exposure_candidates=0),
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[PromiseHome]:
    with open_letters_home(tmp_path) as found:
        yield found


def test_a_real_run_shrinks_to_one_rank_and_has_the_loss_of_an_undisturbed_one(home: PromiseHome) -> None:
    losses = []
    for faults in ([], [LoseNode("local-1", at_step=10)]):
        summary = start_run(
            SPEC,
            home=home.home,
            ledger=home.ledger,
            backend=home.backend,
            store_url=home.home.store_dir.as_uri(),
            actor="asker",
            progress=Watching(),
            clock=home.clock,
            faults=faults,
        )
        assert summary.outcome is RunOutcome.FINISHED
        folder = RunFolder.of(home.home.runs_dir, summary.run)
        losses.append({int(one.number("step")): one.number("loss") for one in told(folder, K.STEP)})
    assert places(folder) == [["local-0", "local-1"], ["local-0"]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # bf16, on another number of ranks
