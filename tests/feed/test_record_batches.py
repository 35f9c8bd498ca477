"""Records fed: each once an epoch, in one order for any world size, resumed anywhere, wiped when dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.clock import ManualClock
from stoker.feed.errors import NotSamples
from stoker.feed.feed import Feed
from stoker.feed.open_shards import KEYS_KEPT_S
from stoker.feed.order import Order
from stoker.feed.record_batch import RecordBatch
from stoker.feed.record_batches import RecordBatchReader
from stoker.feed.record_blocks import BlockCache
from stoker.feed.record_plan import RecordPlanner
from stoker.feed.record_split import RecordSplitReader
from stoker.feed.source import ReadSettings
from stoker.keys.errors import KeyDestroyed
from stoker.store.cache import NodeCache
from stoker.store.errors import CorruptStream, OutOfRange
from stoker.store.ragged import Ragged
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.records import RecordBlock
from support.sealed_dataset import sealed_dataset
from support.sealed_records import SealedRecords, sealed_records
from support.sealed_samples import KEK, MemoryKeys

FIELDS = (
    RecordField("number", FieldKind.NUMBER, "int64"),
    RecordField("pair", FieldKind.NUMBER, "uint16", (2,)),
    RecordField("text", FieldKind.TOKENS, "uint16"),
    RecordField("file", FieldKind.BYTES, "uint8"),
)
SCHEMA = RecordSchema(FIELDS, records_per_block=8, blocks_per_shard=5, chunk_log2=14)


def _rows(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(count)
    return [
        {
            "number": number,
            "pair": (number % 65_536, 1),
            "text": random.integers(0, 1 << 16, number % 13),
            "file": random.bytes(int(random.integers(0, 3000))),
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedRecords:
    """One that no test changes."""
    rows = _rows(203)
    folder = tmp_path_factory.mktemp("store")
    return sealed_records(folder, MemoryKeys(), SCHEMA, {"train": rows, "heldout": rows[:11]})


def _split(sealed: SealedRecords, name: str = "train", **settings: Any) -> RecordSplitReader:
    split = sealed.open(**settings).split(name)
    assert isinstance(split, RecordSplitReader)
    return split


def _check(batch: RecordBatch, rows: Sequence[Mapping[str, Any]]) -> None:
    """Every row of the batch is the record that its number says."""
    assert batch.array("number").tolist() == batch.numbers.tolist()
    for row, number in enumerate(batch.numbers.tolist()):
        assert tuple(batch.array("pair")[row]) == rows[number]["pair"]
        assert batch.ragged("text").row(row).tolist() == rows[number]["text"].tolist()
        assert batch.ragged("file").row(row).tobytes() == rows[number]["file"]


def test_a_sequential_pass_gives_every_record_in_stored_order(sealed: SealedRecords) -> None:
    batches = list(_split(sealed).sequential())
    assert [len(batch) for batch in batches] == [8] * 25 + [3]
    assert np.concatenate([batch.numbers for batch in batches]).tolist() == list(range(203))
    for batch in batches:
        _check(batch, sealed.written["train"])
    part = list(_split(sealed).sequential(5, 18))
    assert [batch.numbers.tolist() for batch in part] == [[5, 6, 7], list(range(8, 16)), [16, 17]]
    for batch in part:
        _check(batch, sealed.written["train"])
    with pytest.raises(OutOfRange, match="which has 203"):
        list(_split(sealed).sequential(0, 204))
    with pytest.raises(OutOfRange, match=r"Block 26 .* which has 26"):
        _split(sealed).read_block(26)


def _stream(
    sealed: SealedRecords, steps: int, world_size: int, state: Mapping[str, Any] | None = None
) -> tuple[list[int], dict[str, Any]]:
    """The record numbers of the world's next steps in global order, and the state behind them."""
    shares = []
    for rank in range(world_size):
        with Feed(sealed.open(), global_batch=12, seed=5, rank=rank, world_size=world_size) as feed:
            if state is not None:
                feed.load_state_dict(state)
            batches = [feed.next_array() for _ in range(steps)]
            for batch in batches:
                _check(batch, sealed.written["train"])
            shares.append(np.stack([batch.numbers for batch in batches]))
            saved = json.loads(json.dumps(feed.state_dict()))
    return np.concatenate(shares, axis=1).reshape(-1).tolist(), saved


def test_every_world_size_gives_one_stream_and_each_record_once_an_epoch(sealed: SealedRecords) -> None:
    alone, _ = _stream(sealed, 34, 1)
    assert sorted(alone[:203]) == sorted(alone[203:406]) == list(range(203))
    assert alone[:203] != alone[203:406]
    for world_size in (2, 3, 4):
        assert _stream(sealed, 34, world_size)[0] == alone


@given(before=st.integers(0, 20), worlds=st.permutations([1, 2, 3, 4, 6]))
@settings(max_examples=4, deadline=None)
def test_a_resume_under_other_world_sizes_goes_on_exactly(
    sealed: SealedRecords, before: int, worlds: list[int]
) -> None:
    uninterrupted, _ = _stream(sealed, before + 6, 1)
    found, state = _stream(sealed, before, worlds[0]) if before else ([], None)
    for world_size in worlds[1:4]:
        more, state = _stream(sealed, 2, world_size, state)
        found = found + more
    assert found == uninterrupted


def test_tensors_come_by_field_with_ragged_ones_as_pairs(sealed: SealedRecords) -> None:
    with Feed(sealed.open(), global_batch=4, seed=5) as feed:
        state = feed.state_dict()
        batch = feed.next_array()
        feed.load_state_dict(state)
        tensors = next(feed)
    assert set(tensors) == {"number", "pair", "text", "file", "record.number", "record.ok"}
    assert torch.equal(tensors["number"], torch.from_numpy(batch.numbers))
    assert (tensors["pair"].dtype, tuple(tensors["pair"].shape)) == (torch.int32, (4, 2))
    values, offsets = tensors["text"]
    assert (values.dtype, offsets.dtype) == (torch.int64, torch.int64)
    assert values.tolist() == batch.ragged("text").values.tolist()
    assert tensors["file"][0].dtype == torch.uint8
    assert tensors["record.ok"].tolist() == [True] * 4
    nested = torch.nested.nested_tensor_from_jagged(values, offsets)
    assert [len(row) for row in nested.unbind()] == batch.ragged("text").lengths.tolist()


def test_a_batch_stays_as_it_is_when_its_blocks_are_wiped(sealed: SealedRecords) -> None:
    with Feed(sealed.open(), global_batch=4, seed=5) as feed:
        batches = [feed.next_array() for _ in range(60)]
    for batch in batches:
        _check(batch, sealed.written["train"])


class CountingSplit:
    """A split that keeps what it opened, to see whether it was wiped and whether memory was used again."""

    def __init__(self, split: RecordSplitReader) -> None:
        self.split = split
        self.schema = split.schema
        self.opened: list[RecordBlock] = []
        self.reused = 0
        self.wipes = 0

    def read_block(self, block: int, *, memory: Callable[[int], np.ndarray] | None = None) -> RecordBlock:
        found = self.split.read_block(block, memory=memory)
        self.reused += any(found.buffer is each.buffer for each in self.opened)
        self.opened.append(found)
        return found

    def wipe(self) -> None:
        self.wipes += 1
        self.split.wipe()


def test_dropped_blocks_are_wiped_and_their_memory_is_used_again(sealed: SealedRecords) -> None:
    split = CountingSplit(_split(sealed))
    order = Order(203, 8, 4, 1, seed=2)
    reader = RecordBatchReader(split, order, 0, 4)
    for step in range(50):
        reader.read(step)
        # What a dropped block held is nowhere: its buffer is wiped, or holds another block.
        assert len({id(block.buffer) for block in split.opened if block.buffer.any()}) == reader.chunks_held
    assert order.blocks <= reader.chunks_opened <= order.blocks + 3
    assert split.reused > 10
    assert reader.chunks_held <= 4 * 3
    reader.wipe()
    assert (reader.chunks_held, split.wipes) == (0, 1)
    assert not any(block.buffer.any() for block in split.opened)
    reader.read(7)
    assert reader.chunks_held > 0


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize(("lanes", "window", "world_size"), [(4, 1, 1), (4, 2, 2), (12, 1, 3), (2, 40, 1)])
def test_read_amplification_is_bounded_whoever_opens_the_blocks(
    sealed: SealedRecords, threads: int, lanes: int, window: int, world_size: int
) -> None:
    """As for samples: in one epoch all ranks together open at most blocks + lanes - 1, threads or not."""
    order = Order(203, 8, lanes, window, seed=2)
    rows = lanes // world_size
    readings = ReadSettings(read_threads=threads)
    readers = [RecordBatchReader(_split(sealed), order, r * rows, rows, readings) for r in range(world_size)]
    for step in range(203 // lanes):
        for reader in readers:
            _check(reader.read(step), sealed.written["train"])
            assert reader.chunks_held <= rows * (window + 2)
    assert sum(reader.chunks_opened for reader in readers) <= order.blocks + lanes - 1
    for reader in readers:
        reader.wipe()
        _check(reader.read(5), sealed.written["train"])
        reader.wipe()


def test_what_was_opened_ahead_and_is_expected_no_more_is_wiped(sealed: SealedRecords) -> None:
    split = CountingSplit(_split(sealed))
    cache = BlockCache(split, threads=2)
    cache.exchange((), range(26))
    cache.expect([0, 0, 1, 2, 3, 4, 5, 6, 7])
    assert cache.block(0).arrays["number"].tolist() == list(range(8))
    assert list(cache._ahead) == [1, 2, 3, 4, 5]
    assert cache.block(2).arrays["number"][0] == 16  # not in the expected order: as right
    cache.expect([9, 20, 21])
    assert not cache._ahead
    assert cache.block(9).arrays["number"][0] == 72
    assert list(cache._ahead) == [20, 21]
    assert len({id(block.buffer) for block in split.opened if block.buffer.any()}) <= 3 + 2
    cache.wipe()
    assert (len(cache), len(cache._ahead)) == (0, 0)
    assert not any(block.buffer.any() for block in split.opened)


def test_an_error_of_a_thread_is_raised_by_the_step_that_needs_the_block(tmp_path: Path) -> None:
    rows = _rows(90)
    sealed = sealed_records(tmp_path, MemoryKeys(), SCHEMA, {"train": rows})
    _flip(sealed.shard_path(1), 2)
    with Feed(sealed.open(), global_batch=4, seed=3, read_threads=3) as feed:
        with pytest.raises(CorruptStream, match=r"00000001\.stk, chunk 2"):
            for _ in range(23):
                _check(feed.next_array(), rows)
        assert feed.chunks_held == 0


@pytest.mark.parametrize("buffers", [1, 3])
def test_with_buffers_the_memory_of_a_batch_is_used_again_after_so_many(
    sealed: SealedRecords, buffers: int
) -> None:
    order = Order(203, 8, 4, 2, seed=2)
    reader = RecordBatchReader(_split(sealed), order, 0, 4, ReadSettings(buffers=buffers))
    kept = []
    for step in range(40):
        kept.append(reader.read(step))
        for batch in kept[-buffers:]:
            _check(batch, sealed.written["train"])
    assert kept[0].array("number") is kept[buffers].array("number")
    assert len({id(batch.array("number")) for batch in kept}) == buffers
    reader.wipe()
    assert not any(batch.ragged("file").values.any() or batch.numbers.any() for batch in kept)


def test_batches_that_nobody_took_are_wiped(sealed: SealedRecords) -> None:
    order = Order(203, 8, 4, 2, seed=2)
    reader = RecordBatchReader(_split(sealed), order, 0, 4)
    batch = reader.read(3)
    assert batch.ragged("file").values.any()
    reader.wipe_batch(batch)
    assert not batch.ragged("file").values.any()
    assert not batch.array("number").any() and not batch.ragged("text").values.any()


def test_reading_any_step_first_gives_what_reading_in_order_gives(sealed: SealedRecords) -> None:
    order = Order(203, 8, 4, 2, seed=2)
    ascending = RecordBatchReader(_split(sealed), order, 0, 4)
    numbers = [ascending.read(step).numbers.tolist() for step in range(120)]
    jumping = RecordBatchReader(_split(sealed), order, 0, 4)
    for step in (110, 0, 50, 51, 7, 49):
        assert jumping.read(step).numbers.tolist() == numbers[step]


@given(
    samples=st.integers(1, 400),
    block=st.integers(1, 30),
    shape=st.sampled_from([(1, 0, 1), (4, 0, 4), (12, 3, 6), (40, 0, 8), (7, 6, 1)]),
    window=st.integers(1, 5),
    first=st.integers(0, 700),
    unit_blocks=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_plan_is_the_order(
    samples: int, block: int, shape: tuple[int, int, int], window: int, first: int, unit_blocks: int
) -> None:
    lanes, begin, rows = shape
    order = Order(samples, block, lanes, window, seed=9, unit_blocks=unit_blocks)
    planner = RecordPlanner(order, begin, rows)
    for _ in range(3):
        plan = planner.plan(first)
        indices = np.array(plan.steps)[:, None] * lanes + np.arange(begin, begin + rows)
        assert np.array_equal(plan.numbers, order.numbers(indices.reshape(-1)))
        assert [*zip(plan.blocks, plan.offsets, strict=True)] == [divmod(n, block) for n in plan.numbers]
        assert sorted(row for row, _ in plan.entering[first]) == list(range(rows))
        held: dict[int, tuple[int, ...]] = {}
        for step in plan.steps:
            held.update((row, layout.blocks) for row, layout in plan.entering.get(step, ()))
            at = (step - first) * rows
            assert all(plan.blocks[at + row] in held[row] for row in range(rows))
        first = plan.steps.stop


def _flip(path: Path, chunk: int) -> None:
    data = bytearray(path.read_bytes())
    data[chunk * 2**14 + 600] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def test_a_changed_block_is_named_and_a_bad_copy_in_the_cache_is_replaced(tmp_path: Path) -> None:
    rows = _rows(90)
    sealed = sealed_records(tmp_path / "store", MemoryKeys(), SCHEMA, {"train": rows})
    cache = NodeCache(tmp_path / "cache", sealed.store, 1 << 24)
    list(_split(sealed, cache=cache).sequential())
    (copy,) = (tmp_path / "cache").rglob("00000001.stk")
    _flip(copy, 2)
    for batch in _split(sealed, cache=cache).sequential():
        _check(batch, rows)
    assert copy.read_bytes() == sealed.shard_path(1).read_bytes()
    _flip(copy, 1)
    _flip(sealed.shard_path(1), 1)
    with pytest.raises(CorruptStream, match=r"00000001\.stk, chunk 1"):
        list(_split(sealed, cache=cache).sequential())


def test_a_destroyed_key_stops_a_running_feed_within_a_minute(tmp_path: Path) -> None:
    keys, clock = MemoryKeys(), ManualClock()
    sealed = sealed_records(tmp_path, keys, SCHEMA, {"train": _rows(203)})
    with Feed(sealed.open(clock=clock), global_batch=4, seed=3, window_chunks=1) as feed:
        feed.next_array()
        keys.destroy(KEK)
        clock.advance(KEYS_KEPT_S + 1)
        with pytest.raises(KeyDestroyed):
            for _ in range(60):
                feed.next_array()
        assert feed.chunks_held == 0


def test_a_manifest_that_miscounts_a_splits_shards_is_refused(tmp_path: Path) -> None:
    sealed = sealed_records(tmp_path, MemoryKeys(), SCHEMA, {"train": _rows(90)}, claimed_shards=2)
    with pytest.raises(NotSamples, match="90 records in 2 shards from 0 of 3; they take 3"):
        sealed.open().split("train")


def test_who_wants_token_samples_is_told_that_these_are_records(
    sealed: SealedRecords, tmp_path: Path
) -> None:
    with pytest.raises(NotSamples, match="holds records"):
        sealed.open().token_split("train")
    with pytest.raises(NotSamples, match="holds records"):
        sealed.open().tokens()
    samples = sealed_dataset(tmp_path, MemoryKeys(), train=130, heldout=1).open().tokens()
    assert (samples.split("train").samples, len(samples.root)) == (130, 64)


def test_blank_rows_are_masked_and_columns_are_told_apart() -> None:
    from stoker.feed.record_batch import DecodeFault, Fault

    column = Ragged(np.zeros(0, np.uint8), np.zeros(3, np.int64))
    fault = DecodeFault(1, 9, "file", Fault.KILLED)
    batch = RecordBatch(np.array([4, 9]), {"file": column, "label": np.zeros(2)}, (fault,))
    assert (batch.ok.tolist(), len(batch)) == ([True, False], 2)
    assert batch["file"] is column
    with pytest.raises(TypeError, match="ragged"):
        batch.array("file")
    with pytest.raises(TypeError, match="an array"):
        batch.ragged("label")
