"""Tar archives: what comes back, and what archives that lie, lead elsewhere or are cut off get."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.intake.errors import BrokenSource, DuplicateName, SourceTooMuch
from stoker.spec.source import Form, ImportLimits, ImportSpec, OnFault, Twins
from support.import_sources import bring, contents, leaving_out, nothing_is_left, reasons
from support.intake_home import IntakeHome, intake_home
from support.media_samples import jpeg, png

DATA = {"a/17.jpg": jpeg(1), "a/17.cls": b"3", "a/17.txt": "ein Bild €".encode(), "b.json": b'{"k":1}'}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shards"
    made.mkdir()
    return made


def tar_of(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in members.items():
            add(archive, name, data)
    return out.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **facts: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for fact, value in facts.items():
        setattr(member, fact, value)
    archive.addfile(member, io.BytesIO(data))


def tar_with(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, facts in members:
            add(archive, name, data, **facts)
    return out.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["one.tar", "one.tar.gz", "one.tgz"])
def test_every_member_comes_back_below_the_archives_path(
    home: IntakeHome, folder: Path, name: str, format: int
) -> None:
    data = tar_of(DATA, format)
    (folder / name).write_bytes(data if name.endswith(".tar") else gzip.compress(data))
    report = bring(home, folder)
    assert contents(home, report.record) == {f"{name}/{path}": data for path, data in DATA.items()}
    assert (report.form, reasons(report)) == (Form.TAR, {})
    assert report.decided == ("Form tar: every file is a tar archive.",)


def test_archives_come_in_the_order_of_their_names_and_one_file_may_be_imported_alone(
    home: IntakeHome, folder: Path
) -> None:
    for number in (2, 0, 1):
        (folder / f"{number}.tar").write_bytes(tar_of({"x.txt": b"%d" % number}))
    (folder / "README.md").write_text("three archives")
    report = bring(home, folder)
    assert list(contents(home, report.record)) == ["0.tar/x.txt", "1.tar/x.txt", "2.tar/x.txt"]
    assert reasons(report) == {"not_of_form": 1}
    assert contents(home, bring(home, folder / "1.tar").record) == {"1.tar/x.txt": b"1"}


def test_long_names_blocks_of_exact_size_and_large_members(home: IntakeHome, folder: Path) -> None:
    members = {
        "n" * 90 + "/" + "m" * 150 + ".txt": b"x" * 512,
        "./dot/y.txt": b"y" * 1024,
        "z.txt": b"z" * (3 << 20),
        "café/ü.txt": b"1",
    }
    (folder / "a.tar").write_bytes(tar_of(members))
    (folder / "b.tar.gz").write_bytes(gzip.compress(tar_of(members)))
    found = contents(home, bring(home, folder).record)
    expected = {path.removeprefix("./"): data for path, data in members.items()}
    assert found == {
        f"{name}/{path}": data for name in ("a.tar", "b.tar.gz") for path, data in expected.items()
    }


ODD: dict[str, tuple[tuple[str, bytes, dict[str, object]], str]] = {
    "symbolic link": (("x", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "link"),
    "hard link": (("x", b"", {"type": tarfile.LNKTYPE, "linkname": "good.txt"}), "link"),
    "device": (("x", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}), "special_file"),
    "fifo": (("x", b"", {"type": tarfile.FIFOTYPE}), "special_file"),
    "absolute": (("/etc/x.txt", b"x", {}), "unsafe_name"),
    "dots": (("a/../../x.txt", b"x", {}), "unsafe_name"),
    "drive": (("C:\\x.txt", b"x", {}), "unsafe_name"),
    "drive and slash": (("c:/x.txt", b"x", {}), "unsafe_name"),
    "share": (("\\\\host\\x.txt", b"x", {}), "unsafe_name"),
    "dots and backslash": (("a\\..\\..\\x.txt", b"x", {}), "unsafe_name"),
    "may run as root": (("x.exe", b"\xff\xfe", {"mode": 0o4755}), "not_utf8"),
    "deep": (("a/" * 250 + "x.txt", b"x", {}), "unsafe_name"),
    "empty": (("x.txt", b"", {}), "empty"),
    "large": (("x.txt", b"x" * 101, {}), "too_large"),
    "not UTF-8": (("x.txt", b"caf\xe9", {}), "not_utf8"),
    "named like a picture": (("x.jpg", b"no picture", {}), "not_media"),
    "no class": (("x.cls", b"cat", {}), "bad_label"),
    "class out of range": (("x.cls", b"7", {}), "bad_label"),
    "cut picture": (("x.jpg", jpeg()[:40], {}), "bad_media"),
    "twice": (("good.txt", b"again", {}), "duplicate"),
}


@pytest.mark.parametrize("what", ODD)
def test_atk_057_a_member_that_cannot_be_taken_is_counted_and_the_others_are_taken(
    home: IntakeHome, folder: Path, what: str
) -> None:
    member, reason = ODD[what]
    good = ("good.txt", b"good", dict[str, object]())
    (folder / "a.tar").write_bytes(tar_with(good, member, ("last.txt", b"last", {})))
    report = (
        leaving_out(home, folder, max_file_bytes=600, classes=7)
        if what != "large"
        else leaving_out(home, folder, max_file_bytes=100, classes=7)
    )
    assert contents(home, report.record) == {"a.tar/good.txt": b"good", "a.tar/last.txt": b"last"}
    assert reasons(report) == {reason: 1}
    assert report.left_out[0].examples[0].startswith("a.tar/")


@pytest.mark.parametrize(
    ("what", "error"),
    [("absolute", BrokenSource), ("dots", BrokenSource), ("twice", DuplicateName)],
)
def test_atk_057_what_leads_elsewhere_or_is_there_twice_stops_the_import_by_default(
    home: IntakeHome, folder: Path, what: str, error: type[Exception]
) -> None:
    (folder / "a.tar").write_bytes(tar_with(("good.txt", b"good", {}), ODD[what][0]))
    with pytest.raises(error, match=r"a\.tar"):
        bring(home, folder)
    assert nothing_is_left(home)
    assert not Path("/etc/x.txt").exists()


def test_atk_059_names_that_differ_only_in_case_are_taken_and_told_or_left_out_or_refused(
    home: IntakeHome, folder: Path
) -> None:
    (folder / "a.tar").write_bytes(tar_of({"x.txt": b"1", "X.txt": b"2", "ß.txt": b"3", "SS.txt": b"4"}))
    report = bring(home, folder)
    assert len(contents(home, report.record)) == 4
    (remark,) = report.remarks
    assert (remark.reason, remark.entries, remark.examples) == (
        "case_twin",
        2,
        ("a.tar/X.txt", "a.tar/SS.txt"),
    )
    report = bring(home, folder, same_but_case=Twins.LEAVE_OUT)
    assert list(contents(home, report.record).values()) == [b"1", b"3"]
    assert reasons(report) == {"case_twin": 2}
    with pytest.raises(DuplicateName, match=r"a\.tar/X\.txt differs .* only in case"):
        bring(home, folder, same_but_case=Twins.REFUSE)


@pytest.mark.parametrize("keep", [100, 512, 700, 1024 + 512 + 1, -1024, -1030])
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_archive_is_named_with_member_and_offset(
    home: IntakeHome, folder: Path, keep: int, packed: bool
) -> None:
    whole = tar_of({"one.txt": b"1" * 600, "two.txt": b"2" * 600}, tarfile.USTAR_FORMAT)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512 + 1024
    data = whole[:end][:keep]
    (folder / "a.tar").write_bytes(gzip.compress(data) if packed else data)
    (folder / "b.tar").write_bytes(tar_of({"x.txt": b"x"}))
    with pytest.raises(BrokenSource, match=r"a\.tar at byte \d+: the archive is truncated"):
        bring(home, folder)
    assert nothing_is_left(home)
    report = leaving_out(home, folder)
    assert reasons(report) == {"truncated": 1}
    found = contents(home, report.record)
    assert "b.tar/x.txt" in found
    assert ("a.tar/one.txt" in found) == (keep > 1500 or keep < 0)


def test_a_truncated_archive_names_the_member_that_is_cut(home: IntakeHome, folder: Path) -> None:
    (folder / "a.tar").write_bytes(tar_of({"deep/two.txt": b"2" * 6000}, tarfile.USTAR_FORMAT)[:2000])
    with pytest.raises(
        BrokenSource, match=r"a\.tar at byte 512: .*inside member deep/two\.txt: of 6000 bytes 1488"
    ):
        bring(home, folder)


def broken_checksum(data: bytes) -> bytes:
    at = data.index(b"two.txt")
    return data[:at] + b"TWO" + data[at + 3 :]


def endless_pax(_: bytes) -> bytes:
    """Extended headers about extended headers."""
    one = tarfile.TarInfo("x")
    one.type = tarfile.XHDTYPE
    body = b"11 path=ab\n"
    one.size = len(body)
    return (one.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")) * 900 + bytes(1024)


def many_globals(_: bytes) -> bytes:
    """Global headers that are each small and stay in force."""
    out = b""
    for number in range(200):
        body = b"12 key%03d=v\n" % number
        one = tarfile.TarInfo("x")
        one.type, one.size = tarfile.XGLTYPE, len(body)
        out += one.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        out += folder.tobuf(tarfile.USTAR_FORMAT)
    return out + bytes(1024)


def huge_pax(_: bytes) -> bytes:
    one = tarfile.TarInfo("x")
    one.type = tarfile.XHDTYPE
    one.size = 6 << 30
    return one.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20)


def huge_long_name(_: bytes) -> bytes:
    one = tarfile.TarInfo("x")
    one.type = tarfile.GNUTYPE_LONGNAME
    one.size = 3 << 20
    return one.tobuf(tarfile.GNU_FORMAT) + b"n" * (3 << 20)


def negative_size(_: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("x.txt").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return bytes(header) + bytes(2048)


def sound_but_followed(data: bytes) -> bytes:
    return data + data


BROKEN = {
    "checksum": (broken_checksum, BrokenSource, "malformed"),
    "endless pax": (endless_pax, BrokenSource, "malformed"),
    "many global headers": (many_globals, SourceTooMuch, "too_much"),
    "huge pax": (huge_pax, SourceTooMuch, "too_much"),
    "huge long name": (huge_long_name, SourceTooMuch, "too_much"),
    "negative size": (negative_size, BrokenSource, "malformed"),
    "bytes after the end": (sound_but_followed, BrokenSource, "malformed"),
    "zeros after the end": (lambda data: data + bytes(2 << 20), SourceTooMuch, "too_much"),
    "no archive": (lambda _: b"no archive at all" * 100, BrokenSource, "malformed"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_archive_with_broken_headers_is_named_and_its_sound_beginning_kept_when_asked(
    home: IntakeHome, folder: Path, what: str
) -> None:
    breaks, error, reason = BROKEN[what]
    (folder / "a.tar").write_bytes(breaks(tar_of({"one.txt": b"1", "two.txt": b"2"}, tarfile.USTAR_FORMAT)))
    (folder / "z.tar").write_bytes(tar_of({"x.txt": b"x"}))
    with pytest.raises(error, match=r"a\.tar at byte"):
        bring(home, folder)
    assert nothing_is_left(home)
    report = leaving_out(home, folder)
    counted = reasons(report)
    assert counted == {reason: 1}
    assert "z.tar/x.txt" in contents(home, report.record)


def test_a_sparse_member_that_would_be_huge_is_left_out(home: IntakeHome, folder: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        add(
            archive,
            "hole.txt",
            b"x" * 512,
            pax_headers={
                "GNU.sparse.major": "0",
                "GNU.sparse.minor": "1",
                "GNU.sparse.size": str(1 << 40),
                "GNU.sparse.map": f"{1 << 39},512",
            },
        )
        add(archive, "good.txt", b"good")
    (folder / "a.tar").write_bytes(out.getvalue())
    report = bring(home, folder)
    assert contents(home, report.record) == {"a.tar/good.txt": b"good"}
    assert reasons(report) == {"special_file": 1}


def test_gzip_bombs_and_archives_of_too_many_members_are_refused(home: IntakeHome, folder: Path) -> None:
    bomb = tar_of({f"{number}.txt": b"\0" * (40 << 20) for number in range(3)})
    (folder / "a.tar.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(SourceTooMuch, match=r"a\.tar\.gz.* become more than .* over 200 times"):
        bring(home, folder)
    assert nothing_is_left(home)
    limits = ImportLimits(items_per_file=2)
    (folder / "a.tar.gz").write_bytes(gzip.compress(tar_of({f"{number}.txt": b"x" for number in range(3)})))
    with pytest.raises(SourceTooMuch, match="more than 2 items"):
        bring(home, folder, limits=limits)
    report = bring(home, folder, ImportSpec(limits=limits, on_fault=OnFault.LEAVE_OUT))
    assert len(contents(home, report.record)) == 2


def test_a_gzip_archive_that_is_cut_off_or_no_gzip_is_named(home: IntakeHome, folder: Path) -> None:
    data = gzip.compress(
        tar_of({"x.txt": bytes(range(250)) * 4000 and b"text " * 4000, "y.txt": b"y" * 9000})
    )
    (folder / "a.tgz").write_bytes(data[:-9])
    with pytest.raises(BrokenSource, match=r"a\.tgz at byte \d+: the gzip stream is cut off"):
        bring(home, folder)
    (folder / "a.tgz").write_bytes(data[:60] + b"\xff\xff\xff\xff" + data[64:])
    with pytest.raises(BrokenSource, match=r"a\.tgz at byte \d+: it is no gzip stream"):
        bring(home, folder)


def test_a_picture_under_another_kinds_name_is_taken_under_its_own_and_told(
    home: IntakeHome, folder: Path
) -> None:
    (folder / "a.tar").write_bytes(tar_of({"1.JPEG": png(), "2.JPG": jpeg(), "3.jpeg": jpeg()}))
    report = bring(home, folder)
    assert list(contents(home, report.record)) == ["a.tar/1.png", "a.tar/2.jpg", "a.tar/3.jpeg"]
    (remark,) = report.remarks
    assert (remark.reason, remark.examples) == ("other_extension", ("a.tar/1.JPEG",))
