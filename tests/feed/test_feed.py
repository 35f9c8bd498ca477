"""The feed: one global stream whatever the world size, resumed anywhere, failing where it must."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.stateful import Stateful

from stoker.core.clock import ManualClock
from stoker.core.errors import StokerError
from stoker.feed.errors import (
    BadFeedSetting,
    BadFeedState,
    BadRank,
    BadWorldSize,
    EmptySplit,
    FeedStopped,
)
from stoker.feed.feed import Feed
from stoker.feed.rows import CHUNKS_AHEAD
from support.memory_samples import MemoryDataset, memory_dataset


class BrokenChunk(StokerError):
    """Stands for what the store raises for a chunk that was changed."""

    exit_code = 199


def _stream(
    dataset: MemoryDataset,
    steps: int,
    global_batch: int,
    world_size: int = 1,
    state: dict[str, object] | None = None,
    window_chunks: int = 2,
) -> list[int]:
    """The sample numbers of the world's next `steps` global batches, in global order."""
    shares = []
    for rank in range(world_size):
        with Feed(
            dataset,
            global_batch=global_batch,
            seed=11,
            rank=rank,
            world_size=world_size,
            window_chunks=window_chunks,
            prefetch_batches=3,
        ) as feed:
            if state is not None:
                feed.load_state_dict(state)
            shares.append(np.stack([feed.next_array()[:, 0] for _ in range(steps)]))
    return np.concatenate(shares, axis=1).reshape(-1).tolist()


def _state_after(dataset: MemoryDataset, steps: int, global_batch: int, world_size: int) -> dict[str, object]:
    with Feed(
        dataset,
        global_batch=global_batch,
        seed=11,
        rank=0,
        world_size=world_size,
        window_chunks=2,
        prefetch_batches=3,
    ) as feed:
        for _ in range(steps):
            feed.next_array()
        return json.loads(json.dumps(feed.state_dict()))


@given(
    samples=st.integers(1, 90),
    chunk_samples=st.integers(1, 40),
    shares=st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 3), (12, 4), (12, 12), (40, 8), (7, 7)]),
    window_chunks=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_every_world_size_gives_the_same_stream_and_each_sample_once_an_epoch(
    samples: int, chunk_samples: int, shares: tuple[int, int], window_chunks: int, data: st.DataObject
) -> None:
    global_batch, world_size = shares
    dataset = memory_dataset(samples, chunk_samples)
    steps = -(-2 * samples // global_batch)
    alone = _stream(dataset, steps, global_batch, window_chunks=window_chunks)
    assert _stream(dataset, steps, global_batch, world_size, window_chunks=window_chunks) == alone
    for epoch in range(2):
        seen = alone[epoch * samples : (epoch + 1) * samples]
        assert sorted(seen) == list(range(samples))


@given(
    samples=st.integers(1, 120),
    before=st.integers(0, 30),
    old_world=st.sampled_from([1, 2, 3, 4, 6, 12]),
    new_world=st.sampled_from([1, 2, 3, 4, 6, 12]),
)
@settings(max_examples=12, deadline=None)
def test_a_resume_under_another_world_size_goes_on_where_the_other_stopped(
    samples: int, before: int, old_world: int, new_world: int
) -> None:
    dataset = memory_dataset(samples)
    uninterrupted = _stream(dataset, before + 10, 12)
    state = _state_after(dataset, before, 12, old_world)
    assert _stream(dataset, 10, 12, new_world, state) == uninterrupted[before * 12 :]


def test_epochs_differ_and_their_border_falls_inside_a_batch() -> None:
    samples = 50
    stream = _stream(memory_dataset(samples), 13, 8)
    assert stream[:samples] != stream[samples : 2 * samples]
    assert sorted(stream[:samples]) == sorted(stream[samples : 2 * samples]) == list(range(samples))


def test_batches_are_int64_tensors_of_this_ranks_share() -> None:
    with Feed(memory_dataset(64, sample_tokens=5), global_batch=8, seed=0, rank=1, world_size=2) as feed:
        batch = next(iter(feed))
        assert isinstance(batch, torch.Tensor)
        assert batch.dtype == torch.int64
        assert tuple(batch.shape) == (4, 5)
        assert torch.equal(batch[:, 1:], batch[:, :-1] + 1)


def test_a_batch_stays_as_it_is_when_its_chunks_are_wiped() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=0) as feed:
        batch = feed.next_array()
        kept = batch.copy()
        for _ in range(20):
            feed.next_array()
    assert np.array_equal(batch, kept)


def test_feed_is_stateful_for_torch() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=0) as feed:
        assert isinstance(feed, Stateful)


def test_state_counts_what_was_handed_out_and_not_what_was_read_ahead() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=5) as feed:
        for _ in range(9):
            feed.next_array()
        assert feed.state_dict() == {
            "format": 1,
            "root": "ab" * 32,
            "split": "train",
            "seed": 5,
            "global_batch": 8,
            "window_chunks": 4,
            "epoch": 1,
            "consumed": 72,
        }


def test_a_state_can_be_loaded_in_the_middle_of_reading() -> None:
    dataset = memory_dataset(100)
    with Feed(dataset, global_batch=4, seed=5) as feed:
        early = feed.state_dict()
        first = [feed.next_array().tolist() for _ in range(7)]
        feed.load_state_dict(early)
        assert [feed.next_array().tolist() for _ in range(7)] == first


@pytest.mark.parametrize("prefetch_batches", [1, 5])
def test_reading_ahead_stops_at_its_depth(prefetch_batches: int) -> None:
    dataset = memory_dataset(4096, chunk_samples=1)
    with Feed(
        dataset, global_batch=4, seed=5, window_chunks=1, prefetch_batches=prefetch_batches, read_threads=1
    ) as feed:
        feed.next_array()
    assert sum(dataset.train.opened.values()) <= 4 * (1 + prefetch_batches) + CHUNKS_AHEAD


class TickingClock(ManualClock):
    """Moves on by one second each time it is asked."""

    def monotonic_s(self) -> float:
        self.advance(1.0)
        return super().monotonic_s()


def test_a_batch_that_is_ready_is_handed_out_without_looking_at_the_clock() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=0, clock=TickingClock()) as feed:
        feed.next_array()
        feed.next_array()
        waited_s = feed.data_wait_s
        feed.next_array()  # of the same run as the one before
        assert feed.last_wait_s == 0.0
        assert feed.data_wait_s == waited_s > 0.0


def test_waiting_is_measured_for_each_run_and_in_all() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=0, clock=TickingClock(), prefetch_batches=1) as feed:
        for _ in range(3):
            feed.next_array()
        assert feed.last_wait_s == 1.0
        assert feed.data_wait_s == 3.0


def test_chunks_stay_within_their_slots_and_all_are_wiped_when_the_feed_closes() -> None:
    dataset = memory_dataset(512)
    most = 4 * (2 + 2) + CHUNKS_AHEAD * 2
    with Feed(dataset, global_batch=4, seed=0, window_chunks=2, read_threads=2) as feed:
        for _ in range(100):
            feed.next_array()
            assert feed.chunks_held <= most
        assert any(room.tobytes().strip(b"\0") for room in dataset.train.rooms)
    assert len(dataset.train.rooms) > 32
    assert not any(room.tobytes().strip(b"\0") for room in dataset.train.rooms)
    assert dataset.train.wipes >= 1


def test_a_feed_that_nobody_closes_wipes_its_chunks_all_the_same() -> None:
    dataset = memory_dataset(512)
    feed = Feed(dataset, global_batch=4, seed=0)
    feed.next_array()
    del feed
    gc.collect()
    assert dataset.train.rooms
    assert not any(room.tobytes().strip(b"\0") for room in dataset.train.rooms)


def test_an_error_waits_for_the_step_that_needs_the_chunk() -> None:
    plain = _stream(memory_dataset(256), 64, 4)
    broken = plain[100] // 8
    needed = next(step for step in range(64) if broken in {n // 8 for n in plain[4 * step : 4 * step + 4]})
    dataset = memory_dataset(256)
    dataset.train.failing[broken] = BrokenChunk("Shard 3, chunk 7 was changed.")
    with Feed(dataset, global_batch=4, seed=11, window_chunks=2, prefetch_batches=9) as feed:
        read = [feed.next_array()[:, 0].tolist() for _ in range(needed)]
        assert np.concatenate([[], *read]).tolist() == plain[: 4 * needed]
        before = feed.state_dict()
        with pytest.raises(BrokenChunk, match="Shard 3, chunk 7"):
            feed.next_array()
        assert feed.state_dict() == before
        assert not any(room.tobytes().strip(b"\0") for room in dataset.train.rooms)
        with pytest.raises(FeedStopped, match=f"failed at step {needed}"):
            feed.next_array()
        with pytest.raises(FeedStopped, match="failed"):
            feed.load_state_dict(before)


def test_a_closed_feed_gives_no_batch() -> None:
    feed = Feed(memory_dataset(64), global_batch=8, seed=0)
    feed.next_array()
    feed.close()
    feed.close()
    with pytest.raises(FeedStopped, match="closed"):
        next(feed)


def test_a_world_size_that_does_not_divide_names_the_nearest_that_do() -> None:
    with pytest.raises(BadWorldSize, match=r"world size of 5 .* global batch of 12; .* do: 4 and 6"):
        Feed(memory_dataset(64), global_batch=12, seed=0, world_size=5)
    with pytest.raises(BadWorldSize, match="does: 12"):
        Feed(memory_dataset(64), global_batch=12, seed=0, world_size=13)
    with pytest.raises(BadWorldSize, match="does: 1"):
        Feed(memory_dataset(64), global_batch=12, seed=0, world_size=0)


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_outside_its_world_is_refused(rank: int) -> None:
    with pytest.raises(BadRank, match=f"Rank {rank} .* world of 4"):
        Feed(memory_dataset(64), global_batch=12, seed=0, rank=rank, world_size=4)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(EmptySplit, match="'train'"):
        Feed(memory_dataset(0), global_batch=4, seed=0)


def test_every_setting_that_cannot_be_is_named() -> None:
    with pytest.raises(BadFeedSetting, match=r"global_batch is 0.*window_chunks is 0.*seed is -1"):
        Feed(memory_dataset(64), global_batch=0, seed=-1, window_chunks=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"root": "cd" * 32}, "root is cdcd"),
        ({"seed": 6}, "seed is 6 in the state and 5 here"),
        ({"global_batch": 16}, "global_batch is 16 in the state and 8 here"),
        ({"window_chunks": 1}, "window_chunks is 1"),
        ({"split": "heldout"}, "split is heldout"),
        ({"format": 2}, "order format 2"),
        ({"consumed": 9}, "contradicts itself"),
        ({"epoch": 3}, "contradicts itself"),
        ({"consumed": -8}, "'consumed' is not a whole number"),
        ({"consumed": True}, "'consumed' is not a whole number"),
        ({"root": 7}, "'root' is not text"),
        ({"world_size": 2}, "'world_size' is unknown"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, object], named: str) -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=5) as feed:
        with pytest.raises(BadFeedState, match=named):
            feed.load_state_dict({**feed.state_dict(), **change})
        assert feed.state_dict()["consumed"] == 0


def test_a_state_with_a_field_missing_is_refused() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=5) as feed:
        state = feed.state_dict()
        del state["consumed"], state["root"]
        with pytest.raises(BadFeedState, match="'consumed' is missing; 'root' is missing"):
            feed.load_state_dict(state)


def test_without_torch_the_room_imports_and_gives_arrays_and_a_tensor_is_a_clear_error() -> None:
    program = """
        import sys
        sys.modules["torch"] = None
        import stoker.feed.dataset
        from support.memory_samples import memory_dataset
        from stoker.core.errors import MissingExtra
        from stoker.feed.feed import Feed
        with Feed(memory_dataset(64), global_batch=8, seed=0) as feed:
            assert feed.next_array().shape == (8, 3)
            try:
                next(feed)
            except MissingExtra as error:
                print(error.hint)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "extra 'train'" in done.stdout
