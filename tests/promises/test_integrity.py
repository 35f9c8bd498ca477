"""Promise 4 broken on purpose: bytes in the store that are not those that were sealed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.promises.attacks import Attack, Changed, accepts, attacked, attacks_on
from stoker.store.header import StreamKind, StreamLabel, parse_header
from stoker.store.ranges import BytesSource, RangeSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal
from support.promise_home import PromiseHome, broken, failures, promise
from support.sealed_samples import KEK, MemoryKeys

LABEL = StreamLabel(StreamKind.SHARD, "dataset/text", "5a" * 16, 0, 1, bytes(32))


def dataset_folder(house: PromiseHome) -> Path:
    return house.home.store_dir / "datasets" / "text" / house.dataset.version


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x01
    path.write_bytes(data)


def flip_shard(house: PromiseHome) -> str:
    flip(dataset_folder(house) / "00000001.stk", 3000)
    return "00000001.stk was changed"


def cut_shard(house: PromiseHome) -> str:
    path = dataset_folder(house) / "00000000.stk"
    path.write_bytes(path.read_bytes()[:-1])
    return "00000000.stk has"


def lose_shard(house: PromiseHome) -> str:
    (dataset_folder(house) / "00000002.stk").unlink()
    return "00000002.stk is missing"


def swap_shards(house: PromiseHome) -> str:
    folder = dataset_folder(house)
    (folder / "00000000.stk").rename(folder / "aside")
    (folder / "00000001.stk").rename(folder / "00000000.stk")
    (folder / "aside").rename(folder / "00000001.stk")
    return "00000000.stk has"


def flip_superblock(house: PromiseHome) -> str:
    flip(dataset_folder(house) / "manifest" / "superblock.json", 40)
    return f"datasets/text/{house.dataset.version}"


def flip_signature(house: PromiseHome) -> str:
    flip(dataset_folder(house) / "manifest" / "signature", 100)
    return "signature"


def lose_manifest(house: PromiseHome) -> str:
    shutil.rmtree(dataset_folder(house) / "manifest")
    return "manifest/signature"


def flip_scan_report(house: PromiseHome) -> str:
    (path,) = (house.home.store_dir / "sources" / "letters" / house.source.version / "scan").iterdir()
    flip(path, path.stat().st_size - 1)
    return path.name


def flip_part(house: PromiseHome) -> str:
    path = sorted((house.home.store_dir / "runs").rglob("part-00001.stk"))[-1]
    flip(path, 5000)
    return "part-00001.stk"


def lose_part(house: PromiseHome) -> str:
    sorted((house.home.store_dir / "runs").rglob("part-00000.stk"))[-1].unlink()
    return "part-00000.stk"


def roll_back_record(house: PromiseHome) -> str:
    """The newest record of the commit log is replaced by the one before, which is as truly sealed."""
    log = house.home.store_dir / "runs" / house.run.id / "log"
    records = sorted(log.iterdir())
    shutil.copy(records[-2], records[-1])
    return f"{records[-1].name} has digest"


def lose_record(house: PromiseHome) -> str:
    newest = sorted((house.home.store_dir / "runs" / house.run.id / "log").iterdir())[-1]
    newest.unlink()
    return f"{newest.name} is missing"


BREAKS: tuple[Callable[[PromiseHome], str], ...] = (
    flip_shard,
    cut_shard,
    lose_shard,
    swap_shards,
    flip_superblock,
    flip_signature,
    lose_manifest,
    flip_scan_report,
    flip_part,
    lose_part,
    roll_back_record,
    lose_record,
)


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda each: each.__name__)
def test_changed_bytes_in_the_store_are_named(
    break_it: Callable[[PromiseHome], str], house: PromiseHome
) -> None:
    where = break_it(house)
    report = house.verify(4)
    assert broken(report) == {4}
    assert any(where in check.seen for check in failures(report, 4))


def test_an_older_manifest_in_the_place_of_the_recorded_one_is_named(house: PromiseHome) -> None:
    """Another dataset is as truly signed; its manifest and its shards take the place of this one's."""
    house.approve(house.bring_letters("other", count=16))
    other = house.prepare("text-two", "other")
    folder = dataset_folder(house)
    shutil.rmtree(folder)
    shutil.copytree(house.home.store_dir / "datasets" / "text-two" / other.version, folder)
    report = house.verify(4)
    (check,) = failures(report, 4)
    assert f"The manifest datasets/text/{house.dataset.version} has the root {other.root}" in check.seen


def test_a_scan_report_that_the_log_does_not_know_is_named(house: PromiseHome) -> None:
    """It is as truly sealed as the one that the reviewer was shown, and says something else."""
    (path,) = (house.home.store_dir / "sources" / "letters" / house.source.version / "scan").iterdir()
    label = parse_header(path.read_bytes(), path.stat().st_size, "report").label
    kek = KekRef.parse(house.source.kek)
    with PartitionSeal(BackendKeySource(house.backend), kek, Purpose.SOURCE) as seal:
        path.write_bytes(bytes(seal.seal(label, b"nothing was found").data))
    (check,) = failures(house.verify(4), 4)
    assert check.tried == "1 scan reports against the log"
    assert check.seen.endswith("is another report than the one that was recorded")


def test_a_part_of_each_runs_checkpoint_is_attacked_as_streams_are(house: PromiseHome) -> None:
    tried = [check.tried for check in promise(house.verify(4), 4).checks]
    assert f"10 changes to a part of the checkpoint of step 6 of run {house.run.id}" in tried
    assert sum("changes to a stream of" in each for each in tried) == 2


# -- the attacks themselves


def sealed(size: int) -> tuple[bytes, MemoryKeys]:
    keys = MemoryKeys(KEK)
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        return bytes(seal.seal(LABEL, bytes(size), chunk_log2=14).data), keys


@pytest.mark.parametrize(("size", "attacks"), [(1, 10), (100, 10), (40_000, 11), (80_000, 12)])
def test_every_attack_on_a_stream_is_refused_and_the_stream_itself_opens(size: int, attacks: int) -> None:
    data, keys = sealed(size)
    header = parse_header(data, len(data), "sample")

    def opening(source: RangeSource) -> StreamReader:
        return StreamReader.open(source, keys, LABEL, object_bytes=len(data), place="sample")

    check = attacked("a sample", BytesSource(data), header, opening)
    assert check.held, check.seen
    assert check.tried == f"{attacks} changes to a sample"


def test_an_empty_stream_has_no_byte_to_change() -> None:
    data, _ = sealed(0)
    header = parse_header(data, len(data), "sample")
    check = attacked("a sample", BytesSource(data), header, lambda _: pytest.fail("it was opened"))
    assert (check.held, check.seen) == (True, "it is empty, so no byte of it can be another")


def test_a_reader_that_does_not_check_is_found_out_by_every_attack() -> None:
    """A reader that opens the true stream whatever it is given."""
    data, keys = sealed(80_000)
    header = parse_header(data, len(data), "sample")

    def careless(_: RangeSource) -> StreamReader:
        return StreamReader.open(BytesSource(data), keys, LABEL, place="sample")

    check = attacked("a sample", BytesSource(data), header, careless)
    assert not check.held
    assert check.seen.split("; ") == [each.name for each in attacks_on(BytesSource(data), header)]


def test_refusals_prove_nothing_when_the_unchanged_stream_is_refused_too() -> None:
    data, _ = sealed(100)
    header = parse_header(data, len(data), "sample")

    def opening(source: RangeSource) -> StreamReader:
        return StreamReader.open(source, MemoryKeys(KEK), LABEL, place="sample")

    check = attacked("a sample", BytesSource(data), header, opening)
    assert not check.held
    assert "the unchanged stream was refused, so refusals prove nothing" in check.seen


def test_what_is_presented_differs_only_where_it_was_changed() -> None:
    data = bytes(range(100))
    changed = Changed(BytesSource(data), 90, ((10, b"abc"), (50, b"z")))
    assert changed.size() == 90
    whole = data[:10] + b"abc" + data[13:50] + b"z" + data[51:]
    for start, length in ((0, 90), (0, 11), (11, 1), (12, 40), (13, 37), (50, 1), (51, 39)):
        assert bytes(changed.read(start, length)) == whole[start : start + length]


def test_a_flip_is_judged_by_the_chunk_that_it_touches() -> None:
    data, keys = sealed(80_000)
    header = parse_header(data, len(data), "sample")

    def opening(source: RangeSource) -> StreamReader:
        return StreamReader.open(source, keys, LABEL, object_bytes=len(data), place="sample")

    flips = [each for each in attacks_on(BytesSource(data), header) if each.chunk > 1]
    assert flips
    for each in flips:
        assert not accepts(opening, each)
        assert accepts(opening, Attack(each.name, each.presented, 0)), "other chunks are as they were"
