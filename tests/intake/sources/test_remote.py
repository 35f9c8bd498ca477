"""Sources in object stores: read in ranges, never written, and objects that change or stay away."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pyarrow
import pytest
from obstore.store import MemoryStore
from pyarrow import parquet

from stoker.core.progress import SILENT
from stoker.intake.errors import BrokenSource, EmptySource, SourceChanged, SourceTooMuch, SourceUnreachable
from stoker.intake.left_out import LeftOutTally
from stoker.intake.sources.read_ahead import AHEAD, SMALL_BYTES
from stoker.intake.sources.remote import is_url, open_remote, stamp_of
from stoker.spec.source import Form, ImportLimits, ImportSpec, OnFault
from support.import_sources import bring, contents, leaving_out, nothing_is_left, reasons
from support.intake_home import IntakeHome, Interfering, intake_home
from support.media_samples import jpeg
from support.s3_servers import MotoServer, moto_server, pointed_at
from support.slow_store import Fault, SlowStore, environment_of

LARGE = b"0123456789abcdef" * ((SMALL_BYTES >> 4) + 1)
"""Too large to be read ahead of its turn."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def slow() -> Iterator[SlowStore]:
    with SlowStore() as server, pointed_at(server):
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        yield server


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def table_of(texts: list[str]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(
        pyarrow.table({"text": texts, "wide": ["x" * 200_000] * len(texts)}),
        out,
        compression="none",
        use_dictionary=False,
    )
    return out.getvalue()


def test_a_prefix_of_a_bucket_is_imported_in_the_order_of_its_names(
    home: IntakeHome, moto: MotoServer
) -> None:
    with pointed_at(moto):
        url = moto.new_bucket()
        store = obstore.store.from_url(url)
        for key in ("in/b.txt", "in/a/1.txt", "in/a.txt", "in/empty.txt", "in/x.py", "out/c.txt"):
            store.put(key, b"" if "empty" in key else key.encode())
        report = bring(home, f"{url}/in", exclude=("*.py",))
        assert contents(home, report.record) == {
            name: f"in/{name}".encode() for name in ("a.txt", "a/1.txt", "b.txt")
        }
        assert list(contents(home, report.record)) == ["a/1.txt", "a.txt", "b.txt"]
        assert reasons(report) == {"empty": 1, "excluded": 1}
        assert len(store.list().collect()) == 6


def test_an_object_that_was_overwritten_since_the_listing_stops_the_import(
    home: IntakeHome, moto: MotoServer
) -> None:
    with pointed_at(moto):
        url = moto.new_bucket()
        store = obstore.store.from_url(url)
        for name in ("a.txt", "b.txt"):
            store.put(name, LARGE)
        progress = Interfering("import", lambda: store.put("b.txt", LARGE[::-1]) and None)
        with pytest.raises(SourceChanged, match=r"b\.txt changed"):
            bring(home, url, progress=progress)
        assert nothing_is_left(home)


CHANGES = {
    "shrinks": lambda server: server.objects.update({"in/b.txt": LARGE[:-1]}),
    "changes": lambda server: server.objects.update({"in/b.txt": LARGE[::-1]}),
    "goes away": lambda server: server.objects.pop("in/b.txt"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_object_that_changes_is_noticed_though_the_store_ignores_conditions(
    home: IntakeHome, slow: SlowStore, change: str
) -> None:
    slow.objects.update({"in/a.txt": b"first", "in/b.txt": LARGE})
    progress = Interfering("import", lambda: CHANGES[change](slow) and None)
    with pytest.raises(SourceChanged, match=r"b\.txt changed"):
        bring(home, f"{slow.url}/in", progress=progress)
    assert nothing_is_left(home)


def test_a_large_archive_that_changes_between_two_ranges_is_noticed(
    home: IntakeHome, slow: SlowStore
) -> None:
    whole = tar_of({f"{number}.txt": b"x" * (5 << 20) for number in range(4)})
    slow.objects["a.tar"] = whole
    changed = Interfering("import", lambda: slow.objects.update({"a.tar": whole[:-1] + b"y"}))
    with pytest.raises(SourceChanged, match=r"a\.tar changed"):
        bring(home, slow.url, progress=changed)
    assert nothing_is_left(home)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.INTERNAL, Fault.RESET, Fault.SHORT, Fault.CUT])
def test_a_store_that_fails_now_and_then_is_asked_again(
    home: IntakeHome, slow: SlowStore, fault: Fault
) -> None:
    slow.objects.update({"a.txt": b"first " * 50, "b.txt": b"second " * 50})
    slow.plan(fault, method="GET", key="a.txt", times=2)
    assert contents(home, bring(home, slow.url).record) == slow.objects
    assert slow.count("GET", "a.txt") == 3


def test_a_store_that_cuts_every_body_is_an_error_that_names_the_object(
    home: IntakeHome, slow: SlowStore
) -> None:
    slow.objects["a.txt"] = b"first " * 50
    slow.plan(Fault.CUT, method="GET", times=1000)
    with pytest.raises(SourceUnreachable, match=r"a\.txt in s3://slow"):
        bring(home, slow.url)
    assert nothing_is_left(home)


def test_a_store_that_refuses_or_is_not_there_is_named_without_credentials(
    home: IntakeHome, slow: SlowStore
) -> None:
    slow.plan(Fault.FORBIDDEN, times=1000)
    with pytest.raises(SourceUnreachable, match="s3://slow/in"):
        bring(home, f"{slow.url}/in")
    with pytest.raises(SourceUnreachable) as raised:
        bring(home, "az://user:secret-word@nowhere/x")
    assert "secret-word" not in str(raised.value)
    assert nothing_is_left(home)


def test_an_object_that_is_refused_is_left_out_when_the_settings_say_so(
    home: IntakeHome, slow: SlowStore
) -> None:
    slow.objects.update({"a.txt": b"first", "b.txt": b"second"})
    slow.plan(Fault.FORBIDDEN, method="GET", key="a.txt", times=1000)
    with pytest.raises(SourceUnreachable, match=r"a\.txt in s3://slow"):
        bring(home, slow.url)
    report = bring(home, slow.url, unreadable=OnFault.LEAVE_OUT)
    assert (reasons(report), contents(home, report.record)) == ({"unreadable": 1}, {"b.txt": b"second"})


def test_googles_and_azures_stores_are_read_too(home: IntakeHome, slow: SlowStore, tmp_path: Path) -> None:
    slow.objects.update({"in/a.txt": b"first", "in/x/b.txt": b"second", "in/c.tar": tar_of({"y.txt": b"y"})})
    account = {"gcs_base_url": slow.endpoint, "disable_oauth": True}
    names = ("client_email", "private_key", "private_key_id")
    (tmp_path / "account.json").write_text(json.dumps(account | dict.fromkeys(names, "")))
    google = {"GOOGLE_ALLOW_HTTP": "true", "GOOGLE_SERVICE_ACCOUNT": str(tmp_path / "account.json")}
    with environment_of(google):
        report = bring(home, "gs://slow/in", exclude=("*.tar",))
        assert contents(home, report.record) == {"a.txt": b"first", "x/b.txt": b"second"}
    emulator = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": slow.endpoint}
    with environment_of({"AZURE_ALLOW_HTTP": "true", **emulator}):
        report = bring(home, "az://slow/in/c.tar")
        assert contents(home, report.record) == {"c.tar/y.txt": b"y"}


def test_an_object_is_the_same_however_a_store_writes_its_tag() -> None:
    listed = {"e_tag": "0x8D", "version": None, "size": 3}
    answered = {"e_tag": '"0x8D"', "version": "17", "size": 3}
    assert stamp_of(listed) == stamp_of(answered)
    assert stamp_of(listed) != stamp_of(listed | {"size": 2})
    assert stamp_of(listed) != stamp_of(listed | {"e_tag": "0x8E"})


def test_an_empty_prefix_and_an_archive_that_is_not_there(home: IntakeHome, slow: SlowStore) -> None:
    with pytest.raises(EmptySource, match="s3://slow/in was taken: it holds no file"):
        bring(home, f"{slow.url}/in")
    with pytest.raises(SourceUnreachable, match=r"s3://slow/in/a\.tar"):
        bring(home, f"{slow.url}/in/a.tar")
    assert nothing_is_left(home)


def test_archives_and_tables_are_read_in_ranges_and_only_what_is_wanted(
    home: IntakeHome, slow: SlowStore
) -> None:
    texts = [f"text {number}" for number in range(100)]
    slow.objects.update(
        {"in/a.tar": tar_of({"x/1.jpg": jpeg(), "x/1.txt": b"one"}), "t/b.parquet": table_of(texts)}
    )
    report = bring(home, f"{slow.url}/in/a.tar")
    assert contents(home, report.record) == {"a.tar/x/1.jpg": jpeg(), "a.tar/x/1.txt": b"one"}
    report = bring(home, f"{slow.url}/t", text_column="text")
    assert list(contents(home, report.record).values()) == [text.encode() for text in texts]
    assert len(slow.objects["t/b.parquet"]) > 20_000_000
    assert slow.bytes_sent("b.parquet") < 17_000_000
    assert {one.method for one in slow.requests()} <= {"GET", "HEAD", "LIST"}


def test_a_truncated_archive_in_a_store_is_named(home: IntakeHome, slow: SlowStore) -> None:
    slow.objects.update({"a.tar": tar_of({"x.txt": b"x" * 3000})[:2000], "b.tar": tar_of({"y.txt": b"y"})})
    with pytest.raises(
        BrokenSource, match=r"a\.tar at byte \d+: the archive is truncated inside member x\.txt"
    ):
        bring(home, slow.url)
    report = leaving_out(home, slow.url)
    assert (reasons(report), contents(home, report.record)) == ({"truncated": 1}, {"b.tar/y.txt": b"y"})


def test_a_parquet_bomb_in_a_store_ends_its_worker_alone(home: IntakeHome, slow: SlowStore) -> None:
    slow.objects.update({"a.parquet": table_of(["x"]), "b.parquet": table_of(["y"])})
    with pytest.raises(SourceTooMuch, match=r"a\.parquet"):
        bring(home, slow.url, text_column="wide", limits=ImportLimits(row_group_bytes=1000))
    assert nothing_is_left(home)


def test_the_same_bytes_give_the_same_items_from_a_folder_and_from_memory(
    home: IntakeHome, tmp_path: Path
) -> None:
    store = MemoryStore()
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("b.txt", "a.txt", "c.txt"):
        store.put(name, name.encode())
        (folder / name).write_bytes(name.encode())
    local = contents(home, bring(home, folder, progress=SILENT).record)
    with open_remote("memory://", ImportSpec(), LeftOutTally(), store) as files:
        found = {each.path: files.read(each) for each in files.candidates()}
    assert found == local
    assert list(found) == list(local)


def test_what_is_a_url_and_what_is_a_path() -> None:
    for url in ("s3://b/p", "gs://b", "az://c/p", "abfss://c@a/p", "memory://x"):
        assert is_url(url)
    for path in ("s3:/b", "data/s3://b", "/x", "file.tar", "C://x", "https://host/x"):
        assert not is_url(path)


def test_forms_are_told_from_names_in_a_store_too(home: IntakeHome, slow: SlowStore) -> None:
    slow.objects.update({"in/cat/1.jpg": jpeg(1), "in/dog/1.jpg": jpeg(2)})
    report = bring(home, f"{slow.url}/in")
    assert report.form is Form.IMAGE_FOLDER
    assert contents(home, report.record)["dog/1.label"] == b"dog"


def test_small_objects_are_asked_for_ahead_once_each_and_come_in_order(
    home: IntakeHome, slow: SlowStore
) -> None:
    slow.objects.update({f"{number:03}.txt": b"%d" % number for number in range(60)})
    slow.objects["005.txt"] = LARGE
    slow.plan(Fault.UNAVAILABLE, method="GET", key="00", times=2)

    def others_are_under_way() -> None:
        deadline = time.monotonic() + 120
        while len({one.key for one in slow.requests("GET")}) < AHEAD - 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len({one.key for one in slow.requests("GET")}) >= AHEAD - 1

    report = bring(home, slow.url, progress=Interfering("import", others_are_under_way))
    assert contents(home, report.record) == slow.objects
    assert list(contents(home, report.record)) == sorted(slow.objects)
    assert slow.count("GET") == 62
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_the_order_of_reading_decides_which_error_is_told(home: IntakeHome, slow: SlowStore) -> None:
    slow.objects.update({f"{number:03}.txt": b"x" for number in range(30)})
    for key in ("007.txt", "011.txt"):
        slow.plan(Fault.FORBIDDEN, method="GET", key=key, times=1000)
    with pytest.raises(SourceUnreachable, match=r"007\.txt"):
        bring(home, slow.url)
    assert nothing_is_left(home)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
