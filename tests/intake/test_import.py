"""Importing folders: what comes back, what is left out, what is refused, what interruption leaves."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.atomic import exclusive
from stoker.core.errors import BadName, Busy, ConfigError, DiskFull
from stoker.core.ids import VersionId
from stoker.core.progress import SILENT, Progress
from stoker.intake import walk
from stoker.intake.errors import (
    BrokenRecord,
    EmptySource,
    LinkLeavesSource,
    SourceChanged,
    UnreadableFile,
    UnusableFolder,
)
from stoker.intake.importing import ImportReport, import_source
from stoker.intake.source_reader import SourceReader
from stoker.intake.walk import MAX_DEPTH, Reason
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.records import SourceRecord
from stoker.spec.recipe import ImportSpec, NotText, OnFault
from stoker.store.errors import CorruptStream, RolledBack
from support.intake_home import IntakeHome, Interfering, in_child, intake_home, small_file_system


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "letters"
    (made / "inner").mkdir(parents=True)
    (made / "a.txt").write_text("Dear Ada, the secret plan is ready.\n")
    (made / "b.txt").write_text("Zweiter Brief: äöü €\n")
    (made / "inner" / "c.txt").write_text("third\n")
    return made


def bring(
    home: IntakeHome, folder: Path, spec: ImportSpec | None = None, progress: Progress = SILENT
) -> ImportReport:
    return import_source(
        "letters",
        folder,
        spec or ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=progress,
        clock=home.clock,
        locks=home.locks,
    )


def open_source(home: IntakeHome, record: SourceRecord) -> SourceReader:
    keys = BackendKeySource(home.backend)
    return SourceReader.open(record, home.store, keys, home.backend.signer("manifest").public_key)


def contents(home: IntakeHome, record: SourceRecord) -> dict[str, bytes]:
    with open_source(home, record) as reader:
        return {file.path: bytes(reader.read(file)) for file in reader.files}


def nothing_is_left(home: IntakeHome) -> bool:
    """No object, no record, and no key that could still seal."""
    states = [info.state for info in home.backend.list_keks() if info.ref.scope.startswith("source/")]
    unused = KekState.ACTIVE not in states
    return home.objects("sources") == set() and home.ledger.catalogue.sources() == () and unused


def test_every_byte_comes_back_and_the_ledger_has_the_root(home: IntakeHome, folder: Path) -> None:
    report = bring(home, folder)
    expected = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    record = home.ledger.catalogue.latest_source("letters")
    assert record == report.record
    assert contents(home, record) == expected
    assert (record.files, record.content_bytes) == (3, sum(map(len, expected.values())))
    assert [entry.action for entry in home.ledger.audit.entries()][-2:] == [
        "source.import.begin",
        "source.import",
    ]


def test_neither_content_nor_paths_nor_the_canary_lie_in_the_store_in_plain(
    home: IntakeHome, folder: Path
) -> None:
    record = bring(home, folder).record
    canary = home.backend.canary(f"source/letters/{record.version}")
    with open_source(home, record) as reader:
        assert reader.canary is not None
        assert bytes(reader.read(reader.canary)) == canary.encode() + b"\n"
    stored = [path.read_bytes() for path in home.root.rglob("*") if path.is_file()]
    assert len(stored) > 5
    for secret in (b"secret plan", b"c.txt", b"inner", canary.encode(), "äöü".encode()):
        assert not any(secret in data for data in stored)


def test_the_same_name_again_is_a_new_version_and_the_old_one_stays(home: IntakeHome, folder: Path) -> None:
    first = bring(home, folder).record
    (folder / "a.txt").write_text("changed")
    second = bring(home, folder).record
    assert first.version != second.version
    assert contents(home, first)["a.txt"] != contents(home, second)["a.txt"] == b"changed"


def test_equal_files_are_both_kept(home: IntakeHome, folder: Path) -> None:
    (folder / "d.txt").write_bytes((folder / "a.txt").read_bytes())
    found = contents(home, bring(home, folder).record)
    assert found["a.txt"] == found["d.txt"]


def test_files_larger_than_a_shard_and_many_shards(home: IntakeHome, folder: Path) -> None:
    (folder / "big.txt").write_bytes(b"0123456789abcde\n" * (9 << 16))
    (folder / "large.txt").write_bytes(b"line\n" * 1_000_000)
    report = bring(home, folder)
    assert report.shards == 4
    found = contents(home, report.record)
    assert found["big.txt"] == b"0123456789abcde\n" * (9 << 16)
    assert found["large.txt"] == b"line\n" * 1_000_000


def test_atk_059_strange_names_are_kept_and_never_printed_raw(home: IntakeHome, folder: Path) -> None:
    names = ["new\nline", "\x1b[31mred", "ünï ☃", "-rf", "a" * 255, "…", "'\"`$(x)"]
    deep = "/".join(["d" * 250] * 17) + "/leaf"
    for name in names:
        (folder / name).write_text("text")
    descriptor = os.open(folder, os.O_RDONLY)
    for part in deep.split("/")[:-1]:
        os.mkdir(part, dir_fd=descriptor)
        inner = os.open(part, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    leaf = os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(leaf, b"deep text")
    os.close(leaf)
    (folder / "\x1b[2Jempty\n").write_text("")
    os.close(descriptor)
    report = bring(home, folder)
    found = contents(home, report.record)
    assert len(deep) > 4096
    assert found[deep] == b"deep text"
    assert set(names) < set(found)
    shown = report.left_out[0].examples[0]
    assert shown.isprintable()
    assert "empty" in shown


def make_fifo(folder: Path) -> None:
    os.mkfifo(folder / "x")


def make_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "x"))


def make_deep(folder: Path) -> None:
    (folder / "/".join("d" * (MAX_DEPTH + 1))).mkdir(parents=True)


def make_bytes_name(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("text")


LEFT_OUT: list[tuple[Reason, Callable[[Path], object], ImportSpec]] = [
    (Reason.EMPTY, lambda folder: (folder / "x").write_text(""), ImportSpec()),
    (Reason.TOO_LARGE, lambda folder: (folder / "x").write_text("x" * 101), ImportSpec(max_file_bytes=100)),
    (Reason.NOT_UTF8, lambda folder: (folder / "x").write_bytes(b"caf\xe9"), ImportSpec()),
    (Reason.EXCLUDED, lambda folder: (folder / "x.py").write_text("x"), ImportSpec(include=("*.txt",))),
    (Reason.EXCLUDED, lambda folder: (folder / "x.py").write_text("x"), ImportSpec(exclude=("*.py",))),
    (
        Reason.EXCLUDED_FOLDER,
        lambda folder: (folder / "x" / "y").mkdir(parents=True),
        ImportSpec(exclude=("x/*",)),
    ),
    (Reason.SPECIAL_FILE, make_fifo, ImportSpec()),
    (Reason.SPECIAL_FILE, make_socket, ImportSpec()),
    (Reason.LINK, lambda folder: (folder / "x").symlink_to("inner/c.txt"), ImportSpec()),
    (Reason.LINK, lambda folder: (folder / "inner" / "x").symlink_to("../a.txt"), ImportSpec()),
    (Reason.LINK, lambda folder: (folder / "x").symlink_to("inner"), ImportSpec()),
    (Reason.LINK, lambda folder: (folder / "x").symlink_to("x"), ImportSpec()),
    (
        Reason.OUTSIDE_LINK,
        lambda folder: (folder / "x").symlink_to("/etc/passwd"),
        ImportSpec(outside_links=OnFault.LEAVE_OUT),
    ),
    (Reason.NAME_NOT_UTF8, make_bytes_name, ImportSpec()),
    (Reason.RESERVED_NAME, lambda folder: (folder / ".stoker-canary").write_text("x"), ImportSpec()),
    (Reason.TOO_DEEP, make_deep, ImportSpec()),
]


@pytest.mark.parametrize(("reason", "make", "spec"), LEFT_OUT, ids=[str(one[0]) for one in LEFT_OUT])
def test_what_is_left_out_is_counted_with_its_reason(
    home: IntakeHome, folder: Path, reason: Reason, make: Callable[[Path], object], spec: ImportSpec
) -> None:
    make(folder)
    report = bring(home, folder, spec)
    assert dict(report.record.left_out) == {reason.value: 1}
    assert [(one.reason, one.entries) for one in report.left_out] == [(reason, 1)]
    assert set(contents(home, report.record)) == {"a.txt", "b.txt", "inner/c.txt"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "/nowhere", "../inner/../../letters2"])
def test_a_link_that_leaves_the_source_is_refused_by_name(
    home: IntakeHome, folder: Path, target: str
) -> None:
    (folder / "inner" / "way-out").symlink_to(target)
    with pytest.raises(LinkLeavesSource, match="inner/way-out"):
        bring(home, folder)
    assert nothing_is_left(home)


def test_a_file_that_is_not_utf8_is_refused_by_name_when_asked(home: IntakeHome, folder: Path) -> None:
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UnreadableFile, match=r"latin\.txt is not UTF-8: byte 3"):
        bring(home, folder, ImportSpec(not_text=NotText.REFUSE))
    assert nothing_is_left(home)


@pytest.mark.parametrize("spec", [ImportSpec(include=("*.nothing",)), ImportSpec(max_file_bytes=1)])
def test_a_source_of_which_nothing_is_taken_is_refused(
    home: IntakeHome, folder: Path, spec: ImportSpec
) -> None:
    with pytest.raises(EmptySource, match="3 "):
        bring(home, folder, spec)
    assert nothing_is_left(home)


def test_folders_that_are_none(home: IntakeHome, folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EmptySource, match="holds no file"):
        bring(home, empty)
    for path in (tmp_path / "absent", folder / "a.txt"):
        with pytest.raises(UnusableFolder, match=path.name):
            bring(home, path)
    assert nothing_is_left(home)


def test_names_and_settings_are_checked_first(home: IntakeHome, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"include.*max_file_bytes"):
        bring(home, folder, ImportSpec(include=(), max_file_bytes=0))
    with pytest.raises(BadName):
        import_source(
            "../letters",
            folder,
            ImportSpec(),
            actor="asker",
            ledger=home.ledger,
            backend=home.backend,
            store=home.store,
            progress=SILENT,
            clock=home.clock,
            locks=home.locks,
        )
    assert [entry.action for entry in home.ledger.audit.entries()][-1] == "identity.create"


@pytest.mark.parametrize("what", ["a.txt", "inner"])
def test_what_cannot_be_read_is_refused_by_name_or_left_out(tmp_path: Path, folder: Path, what: str) -> None:
    """As an unprivileged user: root may read everything."""
    nobody = 65534
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, nobody, nobody)
    top = tmp_path
    while top != top.parent and top.stat().st_mode & 0o001 == 0:
        top.chmod(top.stat().st_mode | 0o011)
        top = top.parent
    (folder / what).chmod(0o000)

    def work() -> None:
        os.setgid(nobody)
        os.setuid(nobody)
        with intake_home(tmp_path / "theirs") as home:
            with pytest.raises(UnreadableFile, match=f"{what} cannot be read: Permission denied"):
                bring(home, folder)
            assert nothing_is_left(home)
            report = bring(home, folder, ImportSpec(unreadable=OnFault.LEAVE_OUT))
            assert dict(report.record.left_out) == {"unreadable": 1}
            assert report.left_out[0].examples == (what,)

    assert in_child(work) == 0


def swap_for_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda folder: (folder / "inner" / "c.txt").write_text("third, longer"),
    "same length": lambda folder: (folder / "inner" / "c.txt").write_text("THIRD\n"),
    "removed": lambda folder: (folder / "inner" / "c.txt").unlink(),
    "linked": lambda folder: swap_for_link(folder / "inner" / "c.txt"),
    "folder linked": lambda folder: swap_for_link(folder / "inner"),
    "replaced": lambda folder: make_other(folder / "inner" / "c.txt"),
}


def make_other(path: Path) -> None:
    facts = path.stat()
    other = path.with_name("other")
    other.write_text("thIRD\n")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_during_the_import_stops_it(home: IntakeHome, folder: Path, change: str) -> None:
    progress = Interfering("import", lambda: CHANGES[change](folder) and None)
    with pytest.raises(SourceChanged, match=r"inner/c\.txt"):
        bring(home, folder, progress=progress)
    assert nothing_is_left(home)


def test_a_file_that_changes_between_its_first_and_its_last_byte_stops_the_import(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_whole = walk._read_whole

    def read_while_someone_writes(descriptor: int, size_bytes: int) -> bytes:
        data = read_whole(descriptor, size_bytes)
        with (folder / "a.txt").open("a") as file:
            file.write("more")
        return data

    monkeypatch.setattr(walk, "_read_whole", read_while_someone_writes)
    with pytest.raises(SourceChanged, match=r"a\.txt"):
        bring(home, folder)
    assert nothing_is_left(home)


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, folder: Path) -> None:
    (folder / "big.txt").write_bytes(b"0123456789abcde\n" * (3 << 16))
    with (
        small_file_system(tmp_path / "small", "2m") as small,
        intake_home(tmp_path / "home", store_dir=small / "store") as home,
    ):
        with pytest.raises(DiskFull, match="small"):
            bring(home, folder)
        assert nothing_is_left(home)
        (folder / "big.txt").unlink()
        assert len(contents(home, bring(home, folder).record)) == 3


def test_an_interrupt_leaves_nothing(home: IntakeHome, folder: Path) -> None:
    (folder / "aa.txt").write_bytes(b"0123456789abcde\n" * (9 << 16))

    def interrupt() -> None:
        assert home.objects("sources") != set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(home, folder, progress=Interfering("import", interrupt, after=3))
    assert nothing_is_left(home)


def test_after_a_kill_the_next_import_cleans_up(home: IntakeHome, folder: Path) -> None:
    kept = bring(home, folder).record
    before = home.objects("sources")
    (folder / "aa.txt").write_bytes(b"0123456789abcde\n" * (9 << 16))
    home.ledger.close()

    def work() -> None:
        with intake_home(home.root) as theirs:
            bring(theirs, folder, progress=Interfering("import", kill_self, after=3))

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    with intake_home(home.root) as again:
        assert len(again.objects("sources")) > len(before)
        assert again.ledger.catalogue.sources() == (kept,)
        report = bring(again, folder)
        assert report.unfinished_removed == 1
        versions = {key.split("/")[2] for key in again.objects("sources")}
        assert versions == {kept.version, report.record.version}
        active = [info.ref for info in again.backend.list_keks() if info.state is KekState.ACTIVE]
        assert set(active) == {KekRef.parse(kept.kek), KekRef.parse(report.record.kek)}


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_imports_of_one_name_do_not_meet(home: IntakeHome, folder: Path) -> None:
    with exclusive(home.locks / "source-letters.lock", "source letters"), pytest.raises(Busy):
        bring(home, folder)
    assert bring(home, folder).unfinished_removed == 0


def test_a_changed_byte_or_another_manifest_is_refused(home: IntakeHome, folder: Path) -> None:
    first, second = bring(home, folder).record, bring(home, folder).record
    shard = home.store_dir / "sources" / "letters" / first.version / "00000000.stk"
    data = bytearray(shard.read_bytes())
    data[-20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptStream, match="00000000"):
        contents(home, first)
    manifest = shard.parent / "manifest"
    for path in manifest.iterdir():
        path.write_bytes((shard.parents[1] / second.version / "manifest" / path.name).read_bytes())
    with pytest.raises(RolledBack):
        contents(home, first)


def test_a_source_copied_under_another_name_or_version_is_not_that_source(
    home: IntakeHome, folder: Path
) -> None:
    record = bring(home, folder).record
    for other in (replace(record, name="diary"), replace(record, version=VersionId("0" * 32))):
        for key in home.objects(f"sources/letters/{record.version}"):
            copy = key.replace(f"letters/{record.version}", f"{other.name}/{other.version}")
            home.store.create(copy, home.store.get(key))
        with pytest.raises(BrokenRecord, match="another source or version"):
            contents(home, other)
