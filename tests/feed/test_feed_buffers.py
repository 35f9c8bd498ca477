"""The feed's buffers: stored types, memory used again, threads that open chunks, samples one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.errors import StokerError
from stoker.feed.errors import BadFeedSetting, FeedStopped
from stoker.feed.feed import Feed
from stoker.feed.order import Order
from stoker.feed.rows import CHUNKS_AHEAD, RowReader
from support.memory_samples import MemorySplit, memory_dataset
from support.sealed_dataset import SealedDataset, sealed_dataset
from support.sealed_samples import MemoryKeys


class ChunkBroke(StokerError):
    """Stands for what the store raises for a chunk that was changed."""

    exit_code = 197


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedDataset:
    return sealed_dataset(tmp_path_factory.mktemp("store"), MemoryKeys())


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("read_threads", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["int64", "stored"])
def test_how_a_feed_reads_changes_no_token(
    sealed: SealedDataset, dtype: str, read_threads: int, reuse: bool
) -> None:
    with Feed(sealed.open(), global_batch=8, seed=3, read_threads=0, prefetch_batches=1) as feed:
        expected = [feed.next_array() for _ in range(150)]  # an epoch and a half
    with Feed(
        sealed.open(), global_batch=8, seed=3, dtype=dtype, read_threads=read_threads, reuse_batches=reuse
    ) as feed:
        for batch in expected:
            found = feed.next_array()
            assert found.dtype == (np.int64 if dtype == "int64" else np.uint16)
            assert np.array_equal(found, batch)


def test_stored_batches_are_tensors_of_the_stored_type(sealed: SealedDataset) -> None:
    with Feed(sealed.open(), global_batch=8, seed=3, dtype="stored") as feed:
        batch = next(feed)
        assert batch.dtype == torch.uint16
        first = batch.to(torch.int64)
    with Feed(sealed.open(), global_batch=8, seed=3) as feed:
        assert torch.equal(next(feed), first)


def test_buffers_are_used_again_and_never_while_their_batch_is_the_latest() -> None:
    places = set()
    with (
        Feed(memory_dataset(4096), global_batch=8, seed=3, reuse_batches=True, prefetch_batches=7) as feed,
        Feed(memory_dataset(4096), global_batch=8, seed=3) as other,
    ):
        for _ in range(400):
            batch = feed.next_array()
            places.add(batch.ctypes.data)
            assert np.array_equal(batch, other.next_array())
    assert len(places) <= 8  # seven ahead and the latest
    assert not batch.any()  # the ring is wiped with the feed


def test_batches_in_memory_of_their_own_outlive_the_feed() -> None:
    with Feed(memory_dataset(512), global_batch=8, seed=3) as feed:
        kept = [feed.next_array() for _ in range(100)]
        copies = [batch.copy() for batch in kept]
    assert all(np.array_equal(batch, copy) for batch, copy in zip(kept, copies, strict=True))


def test_samples_come_one_by_one_and_a_batch_counts_with_its_first() -> None:
    with Feed(memory_dataset(64), global_batch=8, seed=3) as feed:
        batches = np.concatenate([feed.next_array() for _ in range(4)])
    with Feed(memory_dataset(64), global_batch=8, seed=3) as feed:
        samples = feed.samples()
        found = []
        for number in range(30):
            found.append(next(samples))
            assert feed.consumed == (number // 8 + 1) * 8
        assert np.array_equal(np.stack(found), batches[:30])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"dtype": "float32"}, "dtype is 'float32'; it must be 'int64' or 'stored'"),
        ({"read_threads": -1}, "read_threads is -1"),
        ({"read_threads": 65}, "read_threads is 65"),
        ({"pin_memory": True}, "pin_memory needs reuse_batches"),
        ({"pin_memory": True, "reuse_batches": True}, "pin_memory needs a CUDA device"),
    ],
)
def test_a_way_of_reading_that_cannot_be_is_refused(
    setting: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # also where there is a device
    with pytest.raises(BadFeedSetting, match=named):
        Feed(memory_dataset(64), global_batch=8, seed=0, **setting)  # type: ignore[arg-type]


def test_an_error_inside_a_run_lets_the_batches_before_it_go() -> None:
    with Feed(memory_dataset(512), global_batch=4, seed=11, window_chunks=2) as feed:
        plain = [feed.next_array()[:, 0].tolist() for _ in range(100)]
    for step in (0, 1, 2, 30, 61):
        chunk = plain[step][2] // 8
        needed = next(at for at, batch in enumerate(plain) if chunk in {n // 8 for n in batch})
        dataset = memory_dataset(512)
        dataset.train.failing[chunk] = ChunkBroke("Chunk 7 was changed.")
        with Feed(dataset, global_batch=4, seed=11, window_chunks=2, read_threads=2) as feed:
            read = [feed.next_array()[:, 0].tolist() for _ in range(needed)]
            assert read == plain[:needed]
            with pytest.raises(ChunkBroke, match="Chunk 7"):
                feed.next_array()
            assert feed.consumed == 4 * needed
            assert not any(room.tobytes().strip(b"\0") for room in dataset.train.rooms)
            with pytest.raises(FeedStopped):
                feed.next_array()


def test_a_short_chunk_in_a_used_slot_leaves_nothing_of_the_one_before(sealed: SealedDataset) -> None:
    split = sealed.open().split("train")
    room = memoryview(bytearray(b"\xee" * split.chunk_bytes))
    assert split.read_chunk_into(0, room) == 125
    rows = split.read_chunk_into(split.chunks - 1, room)
    assert rows == 800 - 6 * 125
    left = bytes(room[rows * 65 * 2 :])
    assert not left.strip(b"\0")
    assert np.array_equal(
        np.frombuffer(room, dtype="<u2", count=rows * 65).reshape(rows, 65), sealed.written["train"][750:]
    )


def test_chunks_are_opened_ahead_but_only_so_many() -> None:
    split = MemorySplit(4096, 8)
    order = Order(4096, 8, 4, 2, seed=1)
    reader = RowReader(split, order, 4, threads=1)
    plan = reader.plan(np.arange(2000), np.arange(2000) % 4)
    batch = np.empty((4, 3), dtype=np.uint32)
    reader.fill(batch, plan, range(4))
    assert np.array_equal(batch[:, 0], order.numbers(np.arange(4)))
    assert 4 < reader.chunks_held <= 4 + CHUNKS_AHEAD  # each position's first, and those asked for ahead
    reader.wipe()
    assert reader.chunks_held == 0
    assert 4 <= sum(split.opened.values()) <= 4 + CHUNKS_AHEAD
    assert not any(room.tobytes().strip(b"\0") for room in split.rooms)


def test_a_reader_without_threads_opens_nothing_ahead() -> None:
    split = MemorySplit(4096, 8)
    order = Order(4096, 8, 4, 2, seed=1)
    reader = RowReader(split, order, 4)
    plan = reader.plan(np.arange(2000), np.arange(2000) % 4)
    reader.fill(np.empty((4, 3), dtype=np.uint32), plan, range(4))
    assert sum(split.opened.values()) == reader.chunks_held == reader.chunks_opened == 4


@given(
    samples=st.integers(1, 300),
    block_samples=st.integers(1, 20),
    lanes=st.integers(1, 12),
    window_blocks=st.integers(1, 4),
    jumps=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=6),
    threads=st.sampled_from([0, 2]),
)
@settings(max_examples=40, deadline=None)
def test_rows_are_right_wherever_a_reader_is_sent(
    samples: int,
    block_samples: int,
    lanes: int,
    window_blocks: int,
    jumps: list[tuple[int, int]],
    threads: int,
) -> None:
    order = Order(samples, block_samples, lanes, window_blocks, seed=1)
    split = MemorySplit(samples, block_samples)
    reader = RowReader(split, order, lanes, threads)
    plans = []
    for first in (0, 50):
        indices = np.arange(first * lanes, (first + 50) * lanes)
        plans.append((indices, reader.plan(indices, indices % lanes)))
    for step, steps in jumps:
        indices, plan = plans[step // 50 % 2]
        begin = step % 50 * lanes
        end = min(begin + steps * lanes, len(indices))
        batch = np.empty((end - begin, 3), dtype=np.uint32)
        reader.fill(batch, plan, range(begin, end))
        assert np.array_equal(batch[:, 0], order.numbers(indices[begin:end]))
        assert reader.chunks_held <= lanes * (window_blocks + 2) + CHUNKS_AHEAD * threads
    reader.wipe()
    assert not any(room.tobytes().strip(b"\0") for room in split.rooms)
