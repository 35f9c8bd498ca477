"""Export: the round trip through Parquet, who may, what is recorded, and that nothing half-done is left."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from stoker.core.canonical import digest_of
from stoker.core.errors import ConfigError, DiskFull, StokerError
from stoker.core.progress import SILENT
from stoker.core.result import plain
from stoker.intake import export as module
from stoker.intake.errors import (
    DatasetEnded,
    NoSuchSplit,
    NotAllowed,
    OtherPolicy,
    OtherPurpose,
    ReviewDenied,
    ReviewExpired,
    ReviewRevoked,
    ReviewUndecided,
    UnusableTarget,
)
from stoker.intake.export import ExportPlan, ExportReport, export_dataset, read_key_file
from stoker.intake.importing import import_source
from stoker.intake.life import Uses, expire_dataset
from stoker.intake.review import decide_review, revoke_review
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.errors import KeyExpired, LooseKeyFile
from stoker.ledger.records import DatasetRecord
from stoker.spec.recipe import Kind, PolicySpec
from stoker.spec.source import Form, ImportSpec
from support.intake_home import Interfering, in_child, small_file_system
from support.life_home import DAY_S, TOKENIZER, LifeHome, life_home

Made = tuple[LifeHome, DatasetRecord, dict[str, np.ndarray]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[LifeHome]:
    with life_home(tmp_path) as made:
        yield made


@pytest.fixture
def text(home: LifeHome) -> tuple[DatasetRecord, dict[str, np.ndarray]]:
    """A dataset of tokens that `asker` may export."""
    source = home.source()
    record = home.tokens(review=home.review(source))
    home.review(source, "export")
    return record


def take(
    home: LifeHome, record: DatasetRecord, target: Path, by: str = "asker", dry_run: bool = False, **more: Any
) -> ExportReport:
    given = {name: more.pop(name) for name in ("progress", "go_on") if name in more}
    return export_dataset(
        record,
        ExportPlan(target, **more),
        actor=by,
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        clock=home.clock,
        forbidden=(home.home.root,),
        dry_run=dry_run,
        **given,
    )


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "home")


# -- what comes out


def test_tokens_come_back_exactly_with_their_text(home: LifeHome, text: Any, tmp_path: Path) -> None:
    record, written = text
    report = take(home, record, tmp_path / "out", text=True)
    assert [(file.name, file.samples) for file in report.files] == [
        ("train-00000.parquet", 1100),
        ("heldout-00000.parquet", 7),
    ]
    tokenizer = load_tokenizer(TOKENIZER)
    for split, tokens in written.items():
        table = pq.read_table(tmp_path / f"out/{split}-00000.parquet")
        assert table.schema.field("tokens").type == pa.list_(pa.uint16())
        assert np.array_equal(np.array(table["tokens"].to_pylist(), dtype=np.uint16), tokens)
        said = [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in tokens]
        assert table["text"].to_pylist() == said
        assert table.schema.metadata[b"stoker.root"].decode() == record.root
        assert table.schema.metadata[b"stoker.split"].decode() == split


def test_records_come_back_field_by_field(home: LifeHome, tmp_path: Path) -> None:
    source = home.source()
    record, written = home.records(review=home.review(source))
    home.review(source, "export")
    take(home, record, tmp_path / "out", text=True)
    for split, rows in written.items():
        table = pq.read_table(tmp_path / f"out/{split}-00000.parquet")
        assert table.column_names == ["image", "text", "words", "box", "label", "words_text"]
        found = table.to_pylist()
        assert [row["image"] for row in found] == [row["image"] for row in rows]
        assert [row["text"].encode() for row in found] == [row["text"] for row in rows]
        assert [row["words"] for row in found] == [row["words"].tolist() for row in rows]
        assert [row["box"] for row in found] == [row["box"].tolist() for row in rows]
        assert [row["label"] for row in found] == [row["label"] for row in rows]
        assert table.schema.field("image").metadata == {b"media": b"image/png"}
        assert table.schema.field("box").type == pa.list_(pa.list_(pa.float32(), 2), 2)


def test_many_files_are_the_same_rows_in_order(
    home: LifeHome, text: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 15_000)
    record, written = text
    report = take(home, record, tmp_path / "out", splits=("train",))
    names = [file.name for file in report.files]
    assert len(names) > 2
    assert names == sorted(names)
    assert report.samples == sum(file.samples for file in report.files) == 1100
    rows = [row for name in names for row in pq.read_table(tmp_path / "out" / name)["tokens"].to_pylist()]
    assert np.array_equal(np.array(rows, dtype=np.uint16), written["train"])
    assert "heldout" not in "".join(left(tmp_path / "out"))


def test_a_split_without_samples_is_a_file_without_rows(home: LifeHome, tmp_path: Path) -> None:
    source = home.source()
    record, _ = home.tokens(review=home.review(source), samples=0)
    home.review(source, "export")
    report = take(home, record, tmp_path / "out", splits=("train",))
    assert [(file.name, file.samples) for file in report.files] == [("train-00000.parquet", 0)]
    assert pq.read_table(tmp_path / "out/train-00000.parquet").num_rows == 0


def test_files_and_folder_are_for_their_owner_alone(home: LifeHome, text: Any, tmp_path: Path) -> None:
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        take(home, text[0], tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {0o600}
    assert left(tmp_path) == ["out"]


def test_begin_and_end_are_recorded_with_counts_and_the_digest_of_the_files(
    home: LifeHome, text: Any, tmp_path: Path
) -> None:
    record, _ = text
    report = take(home, record, tmp_path / "out")
    (begin,), (end,) = home.acts("dataset.export.begin"), home.acts("dataset.export")
    for act in (begin, end):
        assert (act["actor"], act["root"], act["review"]) == ("asker", record.root, report.review)
        assert (act["folder"], act["encrypted"]) == (str(tmp_path / "out"), False)
        assert act["splits"] == {"train": 1100, "heldout": 7}
    assert (end["samples"], end["files"], end["digest"]) == (1107, 2, report.digest)
    assert report.digest == digest_of(plain(report.files))
    told = json.loads((tmp_path / "out/export.json").read_text())
    assert (told["digest"], told["root"], told["exported_by"]) == (report.digest, record.root, "asker")
    for file in report.files:
        data = (tmp_path / "out" / file.name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.bytes)
    assert home.ledger.audit.verify().holds


def test_an_export_is_one_use_begun_or_done(home: LifeHome, text: Any, tmp_path: Path) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(home, text[0], tmp_path / "out", press)
    home.clock.advance(5.0)
    take(home, text[0], tmp_path / "out")
    uses = Uses(home.ledger, home.watch).of(text[0])
    assert [(use.what, use.by, use.outcome) for use in uses] == [
        ("export", "asker", "begun"),
        ("export", "asker", "done"),
    ]
    assert uses[1].began_s - uses[0].began_s == 5.0


def test_encrypted_files_open_with_the_key_and_not_without(home: LifeHome, text: Any, tmp_path: Path) -> None:
    record, written = text
    key_file = tmp_path / "key"
    key_file.write_text(f'footer_key = "{"ab" * 32}"\n')
    key_file.chmod(0o600)
    key = read_key_file(key_file)
    report = take(home, record, tmp_path / "out", key=key, text=True)
    assert report.encrypted
    path = tmp_path / "out/train-00000.parquet"
    opened = encryption.create_decryption_properties(key)
    rows = pq.read_table(path, decryption_properties=opened)["tokens"].to_pylist()
    assert np.array_equal(np.array(rows, dtype=np.uint16), written["train"])
    with pytest.raises(OSError, match="encrypted"):
        pq.read_table(path)
    with pytest.raises(OSError, match=r"."):
        pq.read_table(path, decryption_properties=encryption.create_decryption_properties(bytes(32)))
    data = path.read_bytes()
    assert data[:4] == data[-4:] == b"PARE"  # the footer is encrypted too
    assert b"stoker.root" not in data


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        ("", 0o600, ConfigError),
        ("nonsense", 0o600, ConfigError),
        ('[master_keys]\nmine = "000102030405060708090a0b0c0d0e0f"\n', 0o600, ConfigError),
        ('footer_key = "00"\n', 0o600, ConfigError),
        (f'footer_key = "{"00" * 16}"\n', 0o640, LooseKeyFile),
    ],
)
def test_a_key_file_that_holds_no_key_or_is_open_to_others_is_refused(
    tmp_path: Path, content: str, mode: int, error: type[StokerError]
) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(error):
        read_key_file(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_key_file(tmp_path / "nowhere")


def test_what_was_exported_encrypted_is_imported_again_with_the_same_key_file(
    home: LifeHome, text: Any, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f'footer_key = "{"cd" * 32}"\n')
    key_file.chmod(0o600)
    report = take(home, text[0], tmp_path / "out", key=read_key_file(key_file), text=True)
    (tmp_path / "out/export.json").unlink()
    spec = ImportSpec(form=Form.PARQUET, text_column="text", parquet_key_file=str(key_file))
    made = import_source(
        "again",
        tmp_path / "out",
        spec,
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.home.locks_dir,
    )
    assert made.record.files == report.samples


# -- who may


@pytest.mark.parametrize("by", ["decider", "hands", "watcher"])
def test_only_a_researcher_or_an_admin_may(home: LifeHome, text: Any, tmp_path: Path, by: str) -> None:
    with pytest.raises(NotAllowed, match="may not export a dataset"):
        take(home, text[0], tmp_path / "out", by)
    assert left(tmp_path) == []
    assert home.acts("dataset.export.begin") == []


def test_leave_is_for_the_one_who_asked_for_it(home: LifeHome, text: Any, tmp_path: Path) -> None:
    for by in ("other", "boss"):
        with pytest.raises(NotAllowed, match=f"was asked for by asker, not by {by}"):
            take(home, text[0], tmp_path / "out", by)
    assert left(tmp_path) == []


def test_every_review_but_one_in_force_for_export_refuses(home: LifeHome, tmp_path: Path) -> None:
    source = home.source()
    record, _ = home.tokens(review=home.review(source))
    target = tmp_path / "out"
    with pytest.raises(OtherPurpose, match="was reviewed for research, not for export"):
        take(home, record, target)
    asked = home.review(source, "export", decider=None)
    with pytest.raises(ReviewUndecided):
        take(home, record, target)
    house = {"ledger": home.ledger, "backend": home.backend, "clock": home.clock}
    decide_review(asked.id, approve=False, reason="no", decided_by="decider", **house)
    with pytest.raises(ReviewDenied):
        take(home, record, target)
    given = home.review(source, "export", days=1.0)
    take(home, record, target, dry_run=True)
    revoke_review(given.id, reason="no more", revoked_by="decider", **house)
    with pytest.raises(ReviewRevoked):
        take(home, record, target)
    home.review(source, "export", days=1.0)
    home.clock.advance(2 * DAY_S)
    with pytest.raises(ReviewExpired):
        take(home, record, target)
    home.review(source, "export", policy=PolicySpec((Kind.EMAIL,)))
    with pytest.raises(OtherPolicy, match="approved another policy"):
        take(home, record, target)
    assert left(tmp_path) == []
    assert home.acts("dataset.export.begin") == []


def test_leave_for_other_bytes_does_not_do(home: LifeHome, tmp_path: Path) -> None:
    record, _ = home.tokens(review=home.review(home.source()))
    home.review(home.source(), "export")  # a later version of the same source
    with pytest.raises(OtherPurpose):
        take(home, record, tmp_path / "out")


def test_what_is_over_is_not_exported(home: LifeHome, text: Any, tmp_path: Path) -> None:
    record, _ = text
    home.clock.advance(31 * DAY_S)
    with pytest.raises(DatasetEnded, match="expired at"):
        take(home, record, tmp_path / "out")
    assert left(tmp_path) == []


def test_an_unknown_split_is_named(home: LifeHome, text: Any, tmp_path: Path) -> None:
    with pytest.raises(NoSuchSplit, match="it has train, heldout"):
        take(home, text[0], tmp_path / "out", splits=("train", "tset"))
    assert home.acts("dataset.export.begin") == []


def test_a_dry_run_checks_everything_and_writes_nothing(home: LifeHome, text: Any, tmp_path: Path) -> None:
    size = home.ledger.audit.size
    report = take(home, text[0], tmp_path / "out", dry_run=True)
    assert (report.samples, report.splits, report.files) == (1107, {"train": 1100, "heldout": 7}, ())
    assert (left(tmp_path), home.ledger.audit.size) == ([], size)


# -- where to


def test_nothing_is_written_over_or_where_all_is_sealed(home: LifeHome, text: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "way").symlink_to(home.home.root)
    for name, why in (
        ("file", "exists already"),
        ("folder", "exists already"),
        ("link", "exists already"),
        ("no/folder/out", "cannot be used"),
        ("file/out", "is no folder"),
        ("home/out", "where everything is sealed"),
        ("home/store/out", "where everything is sealed"),
        ("way/out", "where everything is sealed"),
    ):
        with pytest.raises(UnusableTarget, match=why):
            take(home, text[0], tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert home.acts("dataset.export.begin") == []


# -- what goes wrong on the way


def interrupted(home: LifeHome, record: DatasetRecord, target: Path, deed: Callable[[], object]) -> None:
    take(home, record, target, progress=Interfering("export", deed))


def test_ctrl_c_leaves_nothing_and_the_log_says_begun(home: LifeHome, text: Any, tmp_path: Path) -> None:
    def press() -> None:
        assert [name[:12] for name in left(tmp_path)] == [".out.partial"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(home, text[0], tmp_path / "out", press)
    assert left(tmp_path) == []
    assert len(home.acts("dataset.export.begin")) == 1
    assert home.acts("dataset.export") == []


@pytest.mark.parametrize("calls", [0, 2])
def test_being_told_to_end_between_blocks_leaves_nothing(
    home: LifeHome, text: Any, tmp_path: Path, calls: int
) -> None:
    went: list[int] = []

    def go_on() -> None:
        went.append(0)
        if len(went) > calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(home, text[0], tmp_path / "out", go_on=go_on)
    assert len(went) == calls + 1
    assert left(tmp_path) == []


def test_a_leave_taken_back_in_the_middle_leaves_nothing(home: LifeHome, text: Any, tmp_path: Path) -> None:
    given = [each for each in home.ledger.catalogue.reviews() if each.purpose == "export"][-1]

    def take_back() -> None:
        revoke_review(
            given.id,
            reason="no",
            revoked_by="boss",
            ledger=home.ledger,
            backend=home.backend,
            clock=home.clock,
        )

    with pytest.raises(ReviewRevoked):
        interrupted(home, text[0], tmp_path / "out", take_back)
    assert left(tmp_path) == []


def test_a_dataset_that_expires_in_the_middle_leaves_nothing(
    home: LifeHome, text: Any, tmp_path: Path
) -> None:
    def expire() -> None:
        expire_dataset(
            text[0], 0.0, actor="decider", ledger=home.ledger, backend=home.backend, clock=home.clock
        )

    with pytest.raises(KeyExpired):
        interrupted(home, text[0], tmp_path / "out", expire)
    assert left(tmp_path) == []


def test_a_folder_that_appears_in_the_middle_is_not_written_over(
    home: LifeHome, text: Any, tmp_path: Path
) -> None:
    with pytest.raises(UnusableTarget, match="came to exist meanwhile"):
        interrupted(home, text[0], tmp_path / "out", (tmp_path / "out").mkdir)
    assert left(tmp_path) == ["out"]
    assert left(tmp_path / "out") == []


def test_a_full_disk_is_named_and_leaves_nothing(home: LifeHome, text: Any, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "16k") as small:
        with pytest.raises(DiskFull, match=str(small)):
            take(home, text[0], small / "out")
        assert left(small) == []
    assert home.acts("dataset.export") == []


def test_a_ledger_that_cannot_record_the_end_takes_the_files_with_it(
    home: LifeHome, text: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(draft: Path, target: Path) -> None:
        draft.rename(target)
        home.ledger.close()
        (home.home.root / "ledger.head").write_text("not a head\n")

    monkeypatch.setattr(module, "publish", broken)
    with pytest.raises(StokerError, match=r"head"):
        take(home, text[0], tmp_path / "out")
    assert left(tmp_path) == []


def test_what_a_killed_export_left_is_removed_by_the_next_to_the_same_place(tmp_path: Path) -> None:
    with life_home(tmp_path) as home:
        source = home.source()
        record, _ = home.tokens(review=home.review(source))
        home.review(source, "export")
    (tmp_path / ".out.partial-mine").write_text("a file of somebody's")

    def take_and_die() -> None:
        with life_home(tmp_path) as home:
            interrupted(home, record, tmp_path / "out", lambda: os.kill(os.getpid(), signal.SIGKILL))

    assert in_child(take_and_die) == signal.SIGKILL
    assert len(left(tmp_path)) == 2
    with life_home(tmp_path) as home:
        take(home, record, tmp_path / "out")
        assert left(tmp_path) == [".out.partial-mine", "out"]
        assert (len(home.acts("dataset.export.begin")), len(home.acts("dataset.export"))) == (2, 1)
