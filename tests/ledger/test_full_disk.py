"""A full disk: a small tmpfs, filled to the brim while a ledger lives on it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.errors import DiskFull
from stoker.ledger.ledger import Ledger
from support import ledger_samples as samples


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_up(path: Path, leave_bytes: int = 0) -> None:
    """Grow a file until nothing fits, then give `leave_bytes` back."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with path.open("r+b") as file:
        file.truncate(max(0, path.stat().st_size - leave_bytes))


def act_until_full(ledger: Ledger) -> int:
    """Acts that went through before the disk was full."""
    for number in range(1000):
        try:
            with ledger.act(
                actor="alice", action="add", subject=f"{number}", detail={"filler": "x" * 5000}
            ) as catalogue:
                catalogue.add_identity(samples.identity_record(f"name-{number}"))
        except DiskFull as error:
            assert "ledger.db" in error.message
            return number
    raise AssertionError("the disk never was full")


@pytest.mark.parametrize("leave_bytes", [0, 8_192, 70_000])
def test_an_act_on_a_full_disk_is_absent_and_the_next_one_works_once_there_is_space(
    small_disk: Path, leave_bytes: int
) -> None:
    filler = small_disk / "filler"
    with samples.open_ledger(small_disk) as ledger:
        samples.fill(ledger)
        before = ledger.audit.size
        fill_up(filler, leave_bytes)
        done = act_until_full(ledger)
        assert ledger.audit.size == before + done
        names = [record.name for record in ledger.catalogue.identities()]
        assert names == ["alice", *(f"name-{number}" for number in range(done))]
        assert ledger.audit.verify().findings == ()
        filler.unlink()
        samples.note_act(ledger, "after")
        assert ledger.audit.size == before + done + 1
    with samples.open_ledger(small_disk) as ledger:
        assert ledger.audit.size == before + done + 1
        assert ledger.audit.verify().holds
        assert (small_disk / "ledger.head").read_text() == ledger.audit.checkpoint().text
    assert not list(small_disk.glob("*.tmp"))


def test_a_ledger_that_cannot_be_made_for_lack_of_space_is_made_later(small_disk: Path) -> None:
    filler = small_disk / "filler"
    for leave_bytes in (0, 4_096, 16_384, 40_960, 81_920):
        fill_up(filler, leave_bytes)
        with pytest.raises(DiskFull):
            samples.open_ledger(small_disk).close()
        assert not list(small_disk.glob(".*.tmp"))
    filler.unlink()
    with samples.open_ledger(small_disk) as ledger:
        samples.fill(ledger)
        assert ledger.audit.verify().holds


def test_an_act_stands_when_only_the_head_cannot_be_written(small_disk: Path) -> None:
    """The head lies on a full disk, the database on another: the next act catches the head up."""
    database = small_disk.parent / "ledger.db"
    head, filler = small_disk / "ledger.head", small_disk / "filler"
    clock = samples.ManualClock(samples.NOW_S)
    with Ledger.open(f"sqlite:///{database}", small_disk / "ledger.key", clock) as ledger:
        samples.note_act(ledger, "one")
        behind = head.read_text()
        fill_up(filler)
        samples.note_act(ledger, "two")
        assert head.read_text() == behind
        assert ledger.audit.size == 2
        assert ledger.audit.verify().holds
        filler.unlink()
        samples.note_act(ledger, "three")
        assert head.read_text() == ledger.audit.checkpoint().text
