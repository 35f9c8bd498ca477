"""Aligned records fed and decoded: text with image and label, images with labels, sound with transcripts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stoker.feed.decode import decoded
from stoker.feed.decode_spec import AudioSpec, DecodeSpec, ImageSpec, OnFault
from stoker.feed.errors import FeedStopped, NotDecodable, Undecodable
from stoker.feed.feed import Feed
from stoker.feed.order import Order
from stoker.feed.record_batch import Fault, RecordBatch
from stoker.feed.source import ReadSettings
from stoker.store.errors import CorruptStream
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from support.media_files import image_file, picture, png_claiming, sound_file, tone, wav_claiming
from support.sealed_dataset import sealed_dataset
from support.sealed_records import SealedRecords, sealed_records
from support.sealed_samples import MemoryKeys

IMAGE = RecordField("image", FieldKind.BYTES, "uint8", media="image/jpeg")
CAPTION = RecordField("caption", FieldKind.TOKENS, "uint16")
LABEL = RecordField("label", FieldKind.NUMBER, "int64")
MULTIMODAL = RecordSchema((IMAGE, CAPTION, LABEL), records_per_block=5, blocks_per_shard=3, chunk_log2=14)
AUDIO = RecordField("audio", FieldKind.BYTES, "uint8", media="audio/*")
SOUND = RecordSchema((AUDIO, CAPTION), records_per_block=4, blocks_per_shard=4, chunk_log2=14)
SPEC = DecodeSpec(image=ImageSpec(8, 12), time_limit_s=120.0)


def _caption(number: int) -> list[int]:
    return [number, *range(number % 7)]


def _row(number: int, image: bytes | None = None) -> dict[str, Any]:
    file = image if image is not None else image_file(picture(number % 64), quality=95)
    return {"image": file, "caption": _caption(number), "label": number}


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory: pytest.TempPathFactory) -> SealedRecords:
    """Sixty records of text, image and label, made once; no test changes them."""
    rows = [_row(number) for number in range(61)]
    return sealed_records(tmp_path_factory.mktemp("store"), MemoryKeys(), MULTIMODAL, {"train": rows})


def _check(batch: RecordBatch) -> None:
    """Text, image and label of each row belong to one record, unless its image is a fault."""
    images, captions, labels = batch.array("image"), batch.ragged("caption"), batch.array("label")
    assert (images.shape[1:], images.dtype) == ((3, 8, 12), np.uint8)
    for row, number in enumerate(batch.numbers.tolist()):
        assert labels[row] == number
        assert captions.row(row).tolist() == _caption(number)
        if batch.ok[row]:
            colour = picture(number % 64)[0, 0].astype(int)
            assert np.abs(images[row].mean(axis=(1, 2)) - colour).max() < 4
        else:
            assert not images[row].any()


def _steps(
    sealed: SealedRecords, steps: int, world_size: int, state: Mapping[str, Any] | None = None
) -> tuple[list[int], dict[str, Any]]:
    """The record numbers of the world's next steps in global order, each rank decoding its share."""
    shares = []
    for rank in range(world_size):
        with (
            decoded(sealed.open(), SPEC) as images,
            Feed(images, global_batch=8, seed=3, rank=rank, world_size=world_size) as feed,
        ):
            if state is not None:
                feed.load_state_dict(state)
            batches = [feed.next_array() for _ in range(steps)]
            saved = json.loads(json.dumps(feed.state_dict()))
        for batch in batches:
            _check(batch)
        shares.append(np.stack([batch.numbers for batch in batches]))
    return np.concatenate(shares, axis=1).reshape(-1).tolist(), saved


def test_text_image_and_label_stay_together_over_four_two_and_one_ranks(multimodal: SealedRecords) -> None:
    """W = 4, then 2, then 1: the stream is the uninterrupted one, each record once an epoch."""
    with Feed(multimodal.open(), global_batch=8, seed=3) as feed:  # not decoded: the order must be the same
        uninterrupted = np.concatenate([feed.next_array().numbers for _ in range(16)]).tolist()
    four, state = _steps(multimodal, 5, 4)
    two, state = _steps(multimodal, 5, 2, state)
    one, _ = _steps(multimodal, 6, 1, state)
    assert four + two + one == uninterrupted
    assert sorted(uninterrupted[:61]) == list(range(61))


def test_where_whole_shards_are_dealt_the_order_is_the_same_with_and_without_decoding(tmp_path: Path) -> None:
    """From 16 shards a lane on, each lane takes shards whole: the order follows from the data."""
    schema = RecordSchema((IMAGE, CAPTION, LABEL), records_per_block=1, blocks_per_shard=2, chunk_log2=14)
    sealed = sealed_records(tmp_path, MemoryKeys(), schema, {"train": [_row(n) for n in range(67)]})
    with (
        decoded(sealed.open(), SPEC) as images,
        Feed(images, global_batch=2, seed=3, window_chunks=2) as feed,
        Feed(sealed.open(), global_batch=2, seed=3, window_chunks=2) as plain,
    ):
        numbers = []
        for _ in range(40):
            batch = feed.next_array()
            _check(batch)
            assert batch.numbers.tolist() == plain.next_array().numbers.tolist()
            numbers += batch.numbers.tolist()
    assert sorted(numbers[:67]) == list(range(67))
    shards = [number // 2 for number in numbers[0:66:2]]  # of the first lane's records, two in each
    assert sum(one != other for one, other in itertools.pairwise(shards)) < 20


def test_state_counts_decoded_batches_that_were_handed_out_and_no_others(multimodal: SealedRecords) -> None:
    with (
        decoded(multimodal.open(), SPEC) as images,
        Feed(images, global_batch=8, seed=3) as feed,
        Feed(multimodal.open(), global_batch=8, seed=3) as plain,
    ):
        for _ in range(3):
            feed.next_array()
            plain.next_array()
        assert feed.state_dict() == plain.state_dict()
        state = feed.state_dict()
        following = feed.next_array().numbers.tolist()
        feed.load_state_dict(state)
        assert feed.next_array().numbers.tolist() == following


def test_images_and_labels_come_as_tensors(multimodal: SealedRecords) -> None:
    with decoded(multimodal.open(), SPEC) as images, Feed(images, global_batch=8, seed=3) as feed:
        tensors = next(feed)
    assert (tensors["image"].dtype, tuple(tensors["image"].shape)) == (torch.uint8, (8, 3, 8, 12))
    assert tensors["label"].tolist() == tensors["record.number"].tolist()
    assert tensors["record.ok"].all()
    values, offsets = tensors["caption"]
    assert [int(values[offset]) for offset in offsets[:-1]] == tensors["label"].tolist()


def test_clips_and_transcripts_come_with_lengths(tmp_path: Path) -> None:
    rates, forms = (8000, 16_000, 22_050), ("WAV", "FLAC", "OGG")
    rows = [
        {
            "audio": sound_file(tone(300, rates[n % 3], 0.1 + n / 200), rates[n % 3], forms[n // 3 % 3]),
            "caption": _caption(n),
        }
        for n in range(18)
    ]
    sealed = sealed_records(tmp_path, MemoryKeys(), SOUND, {"train": rows})
    spec = DecodeSpec(audio=AudioSpec(8000, 2000), time_limit_s=120.0)
    with decoded(sealed.open(), spec) as clips, Feed(clips, global_batch=6, seed=1) as feed:
        batches = [feed.next_array() for _ in range(3)]
        tensors = next(feed)
    assert tensors["audio"].dtype == torch.float32
    assert tensors["audio.length"].dtype == torch.int64
    assert sorted(np.concatenate([batch.numbers for batch in batches]).tolist()) == list(range(18))
    for batch in batches:
        clip, lengths = batch.array("audio"), batch.array("audio.length")
        assert clip.shape == (6, 2000)
        for row, number in enumerate(batch.numbers.tolist()):
            seconds = round(rates[number % 3] * (0.1 + number / 200)) / rates[number % 3]
            assert abs(int(lengths[row]) - 8000 * seconds) <= 1
            assert not clip[row, lengths[row] :].any()
            middle = slice(200, int(lengths[row]) - 200)
            assert np.abs(clip[row, middle] - tone(300, 8000, 1)[middle]).max() < 0.06
            assert batch.ragged("caption").row(row).tolist() == _caption(number)


def test_image_and_sound_of_one_record_are_decoded_together(tmp_path: Path) -> None:
    schema = RecordSchema((IMAGE, CAPTION, LABEL, AUDIO), 4, 4, 14)
    rows = [{**_row(n), "audio": sound_file(tone(300, 8000, 0.1), 8000)} for n in range(8)]
    rows[3]["audio"] = wav_claiming(2**32)
    sealed = sealed_records(tmp_path, MemoryKeys(), schema, {"train": rows})
    spec = DecodeSpec(image=ImageSpec(8, 12), audio=AudioSpec(8000, 900), on_fault=OnFault.BLANK)
    with decoded(sealed.open(), spec) as both, Feed(both, global_batch=8, seed=1) as feed:
        batch = feed.next_array()
    (fault,) = batch.faults
    assert (fault.number, fault.field, fault.fault) == (3, "audio", Fault.TOO_LARGE)
    assert batch.numbers[fault.row] == 3
    assert batch.array("audio.length").tolist() == [0 if n == 3 else 800 for n in batch.numbers.tolist()]
    assert batch.array("image")[fault.row].any()


BAD = {7: png_claiming(100_000, 100_000), 11: b"", 23: image_file(picture(3))[:200]}


@pytest.fixture(scope="module")
def partly_bad(tmp_path_factory: pytest.TempPathFactory) -> SealedRecords:
    schema = RecordSchema((RecordField("image", FieldKind.BYTES, "uint8"), CAPTION, LABEL), 5, 3, 14)
    rows = [_row(number, BAD.get(number)) for number in range(32)]
    return sealed_records(tmp_path_factory.mktemp("bad"), MemoryKeys(), schema, {"train": rows})


def test_a_record_that_cannot_be_decoded_is_blank_named_and_counted(partly_bad: SealedRecords) -> None:
    spec = DecodeSpec(image=ImageSpec(8, 12), on_fault=OnFault.BLANK, time_limit_s=120.0)
    with decoded(partly_bad.open(), spec) as images, Feed(images, global_batch=8, seed=3) as feed:
        batches = [feed.next_array() for _ in range(4)]
        tensors = images.split("train").batches(Order(32, 5, 32, 4, 3), 0, 32, ReadSettings())
        together = tensors.as_tensors(tensors.read(0))
        counts = images.fault_counts
    for batch in batches:
        _check(batch)
    faults = {fault.number: fault.fault for batch in batches for fault in batch.faults}
    assert faults == {7: Fault.TOO_LARGE, 11: Fault.UNDECODABLE, 23: Fault.UNDECODABLE}
    blank = together["record.number"][~together["record.ok"]]
    assert sorted(blank.tolist()) == [7, 11, 23]
    assert counts[Fault.TOO_LARGE] >= 2 and counts[Fault.UNDECODABLE] >= 4


def test_a_record_that_cannot_be_decoded_stops_the_feed_at_its_step_and_is_named(
    partly_bad: SealedRecords,
) -> None:
    with decoded(partly_bad.open(), SPEC) as images, Feed(images, global_batch=8, seed=3) as feed:
        handed_out = 0
        with pytest.raises(
            Undecodable,
            match=r"Field 'image' of record (7|11|23) of split 'train' \(datasets/own-records/(cd)+/0000000"
            r"[01]\.stk, record \d+ of it\) cannot be decoded: (too large|undecodable)",
        ) as caught:
            while handed_out < 5:
                _check(feed.next_array())
                handed_out += 1
        assert feed.consumed == 8 * handed_out < 32
        assert "on_fault" in caught.value.hint
        with pytest.raises(FeedStopped):
            feed.next_array()


def test_a_changed_shard_is_told_through_the_decoding(tmp_path: Path) -> None:
    sealed = sealed_records(tmp_path, MemoryKeys(), MULTIMODAL, {"train": [_row(n) for n in range(16)]})
    path = sealed.shard_path(0)
    data = bytearray(path.read_bytes())
    data[2**14 + 600] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with (
        decoded(sealed.open(), SPEC) as images,
        Feed(images, global_batch=16, seed=3) as feed,
        pytest.raises(CorruptStream, match=r"00000000\.stk, chunk 1"),
    ):
        feed.next_array()


def test_decoded_memory_is_used_again_after_so_many_batches(multimodal: SealedRecords) -> None:
    with decoded(multimodal.open(), SPEC) as images:
        reader = images.split("train").batches(Order(61, 5, 8, 4, 3), 0, 8, ReadSettings(buffers=2))
        kept = []
        for step in range(6):
            kept.append(reader.read(step))
            for batch in kept[-2:]:
                _check(batch)
        assert len({id(batch.array("image")) for batch in kept}) == 2
        reader.wipe_batch(kept[-1])
        assert not kept[-1].array("image").any()
        assert kept[-2].array("image").any()
        reader.wipe()
        assert not kept[-2].array("image").any()
        assert reader.chunks_held == 0


def test_a_feed_that_uses_memory_again_gives_the_same(multimodal: SealedRecords) -> None:
    with (
        decoded(multimodal.open(), SPEC) as images,
        Feed(images, global_batch=8, seed=3, reuse_batches=True, prefetch_batches=2) as again,
        Feed(multimodal.open(), global_batch=8, seed=3, reuse_batches=True) as plain,
    ):
        seen = set()
        for _ in range(12):
            batch = again.next_array()
            _check(batch)
            assert batch.numbers.tolist() == plain.next_array().numbers.tolist()
            seen.add(id(batch.array("image")))
        assert len(seen) == 4
    assert not batch.array("image").any()


def test_fields_that_hold_no_such_files_are_refused(multimodal: SealedRecords, tmp_path: Path) -> None:
    for spec, message in (
        (DecodeSpec(image=ImageSpec(8, 8, field="picture")), "no field 'picture' of image files"),
        (DecodeSpec(image=ImageSpec(8, 8, field="label")), "no field 'label' of image files"),
        (DecodeSpec(audio=AudioSpec(8000, 8, field="image")), "'image' of audio files; it has 'image' \\(im"),
    ):
        with pytest.raises(NotDecodable, match=message):
            decoded(multimodal.open(), spec)
    samples = sealed_dataset(tmp_path, MemoryKeys(), train=130, heldout=1).open()
    with pytest.raises(NotDecodable, match="holds no records"):
        decoded(samples, SPEC)


def test_closing_ends_the_workers_and_a_feed_that_still_asks_is_told(multimodal: SealedRecords) -> None:
    images = decoded(multimodal.open(), SPEC)
    with Feed(images, global_batch=8, seed=3, prefetch_batches=1) as feed:
        feed.next_array()
        pids = images.worker_pids
        assert pids
        images.close()
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        with pytest.raises(FeedStopped):
            for _ in range(4):
                feed.next_array()
