"""`stoker import` of archives, tables and URLs through the real command, and what bad ones get."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import ConfigError
from stoker.intake.errors import BadMedia, BrokenSource, MissingColumn, SourceUnreachable
from support.cli_home import CliHome
from support.media_samples import jpeg, png, png_of_claimed_size
from support.slow_store import Fault, SlowStore

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    return home_at("people")


def write_tar(path: Path, members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())
    return out.getvalue()


def test_an_archive_is_imported_scanned_and_shown_with_what_was_decided(home: CliHome) -> None:
    write_tar(home.place / "shards/0.tar", {"1.jpg": jpeg(), "1.txt": b"by ada@example.org", "2.JPEG": png()})
    done = home.stoker("import", "shots", "shards")
    assert "Form tar: every file is a tar archive." in done.out
    assert "taken, but" in done.out
    assert "0.tar/2.JPEG" in done.out
    report = home.data("import", "shots", "shards/0.tar")
    assert (report["form"], report["record"]["files"]) == ("tar", 3)
    scan = home.data("review", "scan", "shots")
    assert (scan["counts"]["email"], scan["not_looked_into"]) == (1, {"image": 2})
    assert (
        "NOT LOOKED INTO: 2 pictures; only their names and metadata were scanned"
        in home.stoker("review", "scan", "shots").out
    )


def test_a_form_and_columns_may_be_given_on_the_command_line(home: CliHome) -> None:
    table = home.place / "rows.jsonl"
    table.write_text("".join(json.dumps({"body": f"letter {row}", "n": row}) + "\n" for row in range(3)))
    said = home.refused(MissingColumn, "import", "rows", "rows.jsonl")
    assert "rows.jsonl: there is no column 'text'; it has body, n." in said
    report = home.data("import", "rows", "rows.jsonl", "text_column=body")
    assert (report["form"], report["record"]["files"]) == ("json_lines", 3)
    report = home.data("import", "rows", "rows.jsonl", "--form", "folder")
    assert (report["form"], report["record"]["files"]) == ("folder", 1)
    said = home.refused(ConfigError, "import", "rows", "rows.jsonl", "limits.ratio=0", "delimiter=xx")
    assert "2 mistakes" in said
    assert "ratio is 0" in said


def test_a_truncated_archive_and_a_lying_picture_are_refused_and_leave_nothing(home: CliHome) -> None:
    data = write_tar(home.place / "cut/0.tar", {"1.txt": b"x" * 5000})
    (home.place / "cut/0.tar").write_bytes(data[:3000])
    write_tar(home.place / "lie/0.tar", {"1.png": png_of_claimed_size(100_000, 100_000), "2.txt": b"x"})
    before = home.contents()
    said = home.refused(BrokenSource, "import", "shots", "cut")
    assert "0.tar at byte 512: the archive is truncated inside member 1.txt" in said
    assert 'on_fault = "leave_out"' in said
    said = home.refused(BadMedia, "import", "shots", "lie")
    assert "0.tar/1.png claims 100000 × 100000 pixels" in said
    assert home.contents() == before
    done = home.stoker("import", "shots", "lie", "on_fault=leave_out")
    assert "too many pixels" in done.out
    assert home.data("source", "show", "shots")["sources"][0]["left_out"] == {"too_many_pixels": 1}


def test_a_url_is_imported_with_the_credentials_of_the_environment(home: CliHome) -> None:
    with SlowStore() as server:
        there = replace(home, environment=dict(server.environment))
        server.objects.update({"in/a.txt": b"first", "in/b/c.txt": b"second"})
        server.plan(Fault.UNAVAILABLE, method="GET", times=1)
        report = there.data("import", "letters", f"{server.url}/in")
        assert (report["form"], report["record"]["files"]) == ("folder", 2)
        assert {one.method for one in server.requests()} == {"GET", "LIST"}
        before = home.contents()
        server.plan(Fault.FORBIDDEN, times=100)
        said = there.refused(SourceUnreachable, "import", "letters", f"{server.url}/in")
        assert "s3://slow/in" in said
        assert "anything" not in said
        assert home.contents() == before


def test_ctrl_c_while_a_table_is_parsed_leaves_neither_objects_nor_a_worker(home: CliHome) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = [f"letter {row} " + "of many words " * 300 for row in range(20_000)]
    parquet.write_table(
        pyarrow.table({"text": texts}), home.place / "rows.parquet", compression="none", use_dictionary=False
    )
    before = home.contents()
    done = home.interrupt(
        "import", "rows", "rows.parquet", when=lambda: home.shards("sources/rows"), slow_s=0.1
    )
    assert (done.code, done.out) == (3, "")
    assert home.contents() == before
    assert home.processes() == {}
