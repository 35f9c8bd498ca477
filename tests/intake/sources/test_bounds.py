"""No bytes of a source touch the disk unsealed, memory is bounded, no damage is more than a named fault."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from stoker.core.errors import StokerError
from stoker.intake.left_out import LeftOutTally
from stoker.intake.sources.csv_rows import csv_items
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Intake, SourceForm
from stoker.intake.sources.json_lines import json_lines_items
from stoker.intake.sources.judge import Judge
from stoker.intake.sources.media import HeaderFault, probe
from stoker.intake.sources.parquet import parquet_items
from stoker.intake.sources.tar import tar_items
from stoker.spec.source import ImportSpec, OnFault
from stoker.store.ranges import BytesSource
from support.import_sources import bring, contents
from support.intake_home import IntakeHome, intake_home
from support.media_samples import jpeg, picture, png, sound, wav


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


SECRET = "a sentence that no file of the machine may hold"


def as_parquet(path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": [f"{SECRET} {row}" for row in range(2000)]}), path)


def as_tar(path: Path) -> None:
    path.write_bytes(gzip.compress(tar_of({f"{row}.txt": f"{SECRET} {row}".encode() for row in range(300)})))


def as_lines(path: Path) -> None:
    lines = "".join(json.dumps({"text": f"{SECRET} {row}"}) + "\n" for row in range(2000))
    path.write_bytes(gzip.compress(lines.encode()))


@pytest.mark.parametrize(
    ("name", "write"), [("a.parquet", as_parquet), ("a.tar.gz", as_tar), ("a.jsonl.gz", as_lines)]
)
def test_no_plain_bytes_are_left_anywhere(
    home: IntakeHome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: Callable[[Path], None],
) -> None:
    folder, scratch = tmp_path / "data", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.chdir(scratch)
    write(folder / name)
    report = bring(home, folder)
    assert any(SECRET.encode() in data for data in contents(home, report.record).values())
    assert list(scratch.rglob("*")) == []
    stored = [path for path in home.root.rglob("*") if path.is_file()]
    assert len(stored) > 5
    assert not any(
        SECRET.encode() in path.read_bytes() or name.encode() in path.read_bytes() for path in stored
    )


def test_four_times_the_source_takes_the_same_memory(home: IntakeHome, tmp_path: Path) -> None:
    block = random.Random(7).randbytes(1 << 20).hex().encode()
    peaks = []
    for members in (2, 10, 40):
        path = tmp_path / f"{members}.tar"
        path.write_bytes(tar_of({f"{number}.txt": block for number in range(members)}))
        tracemalloc.start()
        try:
            bring(home, path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] < peaks[1] + (8 << 20)


class InMemory:
    """One file, as a form sees it."""

    place = "memory"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def candidates(self) -> list[Candidate]:
        return []

    def top_folders(self) -> tuple[str, ...]:
        return ()

    def read(self, candidate: Candidate) -> bytes | None:
        return self._data

    def open(self, candidate: Candidate) -> Any:
        return nullcontext(BytesSource(self._data))


def damaged(chance: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(data))
        what = chance.random()
        if what < 0.5:
            data[at] = chance.choice((0, 255, 0x20, 0x30, 0x37, chance.randrange(256)))
        elif what < 0.7:
            del data[at : at + chance.choice((1, 4, 8, 512))]
        elif what < 0.85:
            data[at:at] = chance.randbytes(chance.choice((1, 4, 8)))
        else:
            start = chance.randrange(len(data))
            data[at : at + 64] = data[start : start + 64]
        data = data or bytearray(b"x")
    return bytes(data)


def table() -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": [f"t{row}" for row in range(50)]}), out)
    return out.getvalue()


ARCHIVE = tar_of({"a/1.jpg": jpeg(), "é" * 60 + "/" + "x" * 90: b"x" * 700, "b.json": b"{}"})
WHOLE: dict[str, tuple[SourceForm, bytes, int]] = {
    "a.tar": (tar_items, ARCHIVE[:9000], 250),
    "a.tar.gz": (tar_items, gzip.compress(ARCHIVE), 250),
    "a.jsonl": (json_lines_items, b'{"text":"abc \xc3\xa9","label":1}\n' * 5, 250),
    "a.csv": (csv_items, b'text,label\n"a,""b""",1\nc,2\n\xc3\xa9,3\n', 250),
    "a.parquet": (parquet_items, table(), 25),
}


@pytest.mark.parametrize("name", WHOLE)
def test_any_damage_is_a_named_fault_or_counted(name: str) -> None:
    form, whole, rounds = WHOLE[name]
    chance = random.Random(name)
    faults = 0
    for _ in range(rounds):
        data = damaged(chance, whole)
        for policy in OnFault:
            judge = Judge(ImportSpec(on_fault=policy, max_file_bytes=1 << 16), LeftOutTally(), LeftOutTally())
            candidate = Candidate(name, len(data), (0,))
            try:
                taken = len(list(form(Intake(InMemory(data), [candidate], judge, lambda _: None))))
            except StokerError as error:
                assert policy is OnFault.REFUSE
                assert "a." in error.message and error.hint
                faults += 1
            else:
                assert taken or judge.left_out.counts() or policy is OnFault.REFUSE
    assert faults > rounds // 5


@pytest.mark.parametrize(
    "make", [jpeg, png, lambda: picture("WEBP"), wav, lambda: sound("FLAC"), lambda: sound("OGG")]
)
def test_any_damage_to_a_header_is_a_fault_of_the_header_or_none(make: Callable[[], bytes]) -> None:
    chance, whole = random.Random(3), make()
    faults = 0
    for _ in range(3000):
        try:
            assert probe(damaged(chance, whole)).pixels >= 0
        except HeaderFault as fault:
            assert str(fault)
            faults += 1
    assert faults > 0
