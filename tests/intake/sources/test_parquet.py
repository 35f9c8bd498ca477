"""Parquet and Hugging Face data sets: columns, keys, and files that claim or become too much."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyarrow import parquet
from pyarrow.parquet import encryption

from stoker.core.errors import ConfigError, MissingExtra
from stoker.intake.errors import BrokenSource, LabelMismatch, MissingColumn, SourceTooMuch
from stoker.intake.sources.confined import WorkerSide, parse_confined
from stoker.intake.sources.rows import Cell, Role
from stoker.intake.sources.stream import StreamFault
from stoker.keys.errors import LooseKeyFile
from stoker.spec.source import Form, ImportLimits
from stoker.store.ranges import BytesSource
from support.import_sources import bring, contents, leaving_out, nothing_is_left, reasons
from support.intake_home import IntakeHome, intake_home
from support.media_samples import jpeg, png, wav


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tables"
    made.mkdir()
    return made


def table(rows: int = 5) -> pyarrow.Table:
    return pyarrow.table({"text": [f"text {row} €" for row in range(rows)], "label": list(range(rows))})


def expected(path: str, rows: int = 5) -> dict[str, bytes]:
    found = {}
    for row in range(rows):
        found[f"{path}/{row:09}.txt"] = f"text {row} €".encode()
        found[f"{path}/{row:09}.cls"] = str(row).encode()
    return found


def test_rows_of_all_row_groups_come_in_order(home: IntakeHome, folder: Path) -> None:
    parquet.write_table(table(5000), folder / "a.parquet", row_group_size=1700)
    report = bring(home, folder)
    assert contents(home, report.record) == expected("a.parquet", 5000)
    assert report.form is Form.PARQUET
    assert report.decided == (
        "Form parquet: every file is a Parquet file.",
        "Columns: text from 'text'; label from 'label'.",
    )
    assert multiprocessing.active_children() == []


def test_pictures_clips_labels_and_other_columns(home: IntakeHome, folder: Path) -> None:
    media = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.table(
        {
            "image": pyarrow.array([{"bytes": jpeg(), "path": "x"}, {"bytes": png(), "path": None}], media),
            "sound": [wav(), wav()],
            "kind": pyarrow.array(["cat", "dog"]).dictionary_encode(),
            "when": pyarrow.array([0, 86_400], pyarrow.timestamp("s")),
            "blob": [b"\xff", b"ok"],
        }
    )
    parquet.write_table(rows, folder / "a.parquet")
    report = bring(
        home,
        folder,
        image_column="image",
        audio_column="sound",
        label_column="kind",
        extra_columns=("when", "blob"),
    )
    assert contents(home, report.record) == {
        "a.parquet/000000000.jpg": jpeg(),
        "a.parquet/000000000.wav": wav(),
        "a.parquet/000000000.label": b"cat",
        "a.parquet/000000000.json": b'{"blob":"/w==","when":"1970-01-01T00:00:00"}',
        "a.parquet/000000001.png": png(),
        "a.parquet/000000001.wav": wav(),
        "a.parquet/000000001.label": b"dog",
        "a.parquet/000000001.json": b'{"blob":"ok","when":"1970-01-02T00:00:00"}',
    }


@pytest.mark.parametrize(
    "values",
    [
        pyarrow.array(["a", "b"], pyarrow.large_string()),
        pyarrow.array([b"a", b"b"]),
        pyarrow.array(["a", "b"]).dictionary_encode(),
        pyarrow.array(["a", "b"], pyarrow.string_view()),
    ],
    ids=lambda values: str(values.type),
)
def test_text_of_every_type(home: IntakeHome, folder: Path, values: pyarrow.Array) -> None:
    parquet.write_table(pyarrow.table({"text": values}), folder / "a.parquet")
    assert list(contents(home, bring(home, folder).record).values()) == [b"a", b"b"]


def rows_with(text: Any = "x", label: Any = 1) -> pyarrow.Table:
    return pyarrow.table({"text": ["first", text, "last"], "label": [0, label, 2]})


BAD_ROWS: dict[str, tuple[pyarrow.Table, str, type[Exception], str]] = {
    "no text": (rows_with(text=None), "missing_column", MissingColumn, r"row 1 has no text in column 'text'"),
    "no label": (rows_with(label=None), "missing_column", MissingColumn, "row 1 has no label"),
    "label above": (rows_with(label=9), "bad_label", LabelMismatch, "has label 9; it must be 0 to 4"),
    "label below": (rows_with(label=-1), "bad_label", LabelMismatch, "row 1 has label -1"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_bad_row_is_named_and_left_out_whole(home: IntakeHome, folder: Path, what: str) -> None:
    rows, reason, error, says = BAD_ROWS[what]
    parquet.write_table(rows, folder / "a.parquet")
    with pytest.raises(error, match=says):
        bring(home, folder, classes=5)
    assert nothing_is_left(home)
    report = leaving_out(home, folder, classes=5)
    assert reasons(report) == {reason: 1}
    assert len(contents(home, report.record)) == 4


def test_text_that_is_not_utf8_is_left_out_by_row(home: IntakeHome, folder: Path) -> None:
    odd = pyarrow.array([b"good", b"caf\xe9"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": odd}), folder / "a.parquet")
    report = bring(home, folder)
    assert list(contents(home, report.record).values()) == [b"good"]
    assert reasons(report) == {"not_utf8": 1}


def test_a_file_without_the_column_is_refused_and_says_what_it_has(home: IntakeHome, folder: Path) -> None:
    parquet.write_table(pyarrow.table({"body": ["x"], "id": [1]}), folder / "a.parquet")
    with pytest.raises(MissingColumn, match=r"a\.parquet: there is no column 'text'; it has body, id"):
        bring(home, folder)
    parquet.write_table(table(), folder / "b.parquet")
    report = leaving_out(home, folder)
    assert (reasons(report), contents(home, report.record)) == ({"missing_column": 1}, expected("b.parquet"))


def test_without_pyarrow_the_extra_that_brings_it_is_named(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(table(), folder / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="Parquet needs the package pyarrow") as raised:
        bring(home, folder)
    assert "extra 'data'" in raised.value.hint
    assert nothing_is_left(home)


# --- files that are broken, or bombs


def break_footer(data: bytes) -> bytes:
    return data[:-20] + b"\xff" * 12 + data[-8:]


def break_value(data: bytes) -> bytes:
    at = data.index(b"text 3")
    return data[:at] + b"TEXT" + data[at + 4 :]


def break_header(data: bytes) -> bytes:
    return data[:4] + b"\xff" * 16 + data[20:]


@pytest.mark.parametrize(
    "breaks",
    [
        lambda data: data[:-10],
        lambda data: data[:100],
        break_footer,
        break_value,
        break_header,
        lambda _: b"PAR1 no table PAR1",
    ],
)
def test_atk_055_a_broken_file_is_named_and_the_next_one_taken(
    home: IntakeHome, folder: Path, breaks: Any
) -> None:
    parquet.write_table(
        table(),
        folder / "a.parquet",
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=False,
    )
    (folder / "a.parquet").write_bytes(breaks((folder / "a.parquet").read_bytes()))
    parquet.write_table(table(), folder / "b.parquet")
    with pytest.raises((BrokenSource, SourceTooMuch), match=r"a\.parquet: "):
        bring(home, folder)
    assert nothing_is_left(home)
    report = leaving_out(home, folder)
    assert sum(reasons(report).values()) == 1
    assert contents(home, report.record) == expected("b.parquet")


def bomb(path: Path, rows: int, value_bytes: int, *, expands: bool) -> None:
    """One value of many bytes, by dictionary in every row: a small file, an endless column."""
    values = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array(["\0" * value_bytes])
    )
    parquet.write_table(
        pyarrow.table({"text": values}),
        path,
        compression="zstd",
        dictionary_pagesize_limit=1 << 30,
        row_group_size=rows,
        write_statistics=False,
        store_schema=not expands,
    )


def test_a_dictionary_bomb_is_stopped_by_the_workers_memory_and_named(home: IntakeHome, folder: Path) -> None:
    bomb(folder / "a.parquet", 100_000, 2 << 20, expands=True)
    assert (folder / "a.parquet").stat().st_size < 100_000
    parquet.write_table(table(), folder / "b.parquet")
    limits = ImportLimits(worker_bytes=512 << 20)
    with pytest.raises(
        SourceTooMuch, match=r"a\.parquet: parsing it takes more than 536870912 bytes of memory"
    ):
        bring(home, folder, limits=limits)
    assert nothing_is_left(home)
    report = leaving_out(home, folder, limits=limits)
    assert reasons(report) == {"too_much": 1}
    assert contents(home, report.record) == expected("b.parquet")


def test_a_bomb_that_fits_the_memory_meets_the_ratio(home: IntakeHome, folder: Path) -> None:
    bomb(folder / "a.parquet", 300, 1 << 20, expands=False)
    with pytest.raises(SourceTooMuch, match=r"a\.parquet: its \d+ bytes give more than \d+: over 200 times"):
        bring(home, folder)
    assert nothing_is_left(home)


def test_claims_are_held_against_the_limits_before_anything_is_decoded(
    home: IntakeHome, folder: Path
) -> None:
    rows = pyarrow.table({"text": ["x" * 1000] * 2000, "other": ["y" * 100_000] * 2000})
    parquet.write_table(rows, folder / "a.parquet", use_dictionary=False)
    with pytest.raises(SourceTooMuch, match=r"row group 0 claims \d{7} bytes; at most 1000000 are allowed"):
        bring(home, folder, limits=ImportLimits(row_group_bytes=1_000_000))
    with pytest.raises(SourceTooMuch, match="claims 2000 rows"):
        bring(home, folder, limits=ImportLimits(items_per_file=1999))
    assert nothing_is_left(home)
    # The other column, which is not wanted, does not count.
    bring(home, folder, limits=ImportLimits(row_group_bytes=3_000_000, ratio=100_000))


# --- keys


def key_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "parquet-keys.toml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


FOOTER_KEY = bytes(range(16))


@pytest.mark.parametrize("written", [FOOTER_KEY.hex(), base64.b64encode(FOOTER_KEY).decode()])
@pytest.mark.parametrize("plain_footer", [False, True])
def test_a_file_encrypted_under_one_key_is_read_with_the_key_file(
    home: IntakeHome, folder: Path, tmp_path: Path, written: str, plain_footer: bool
) -> None:
    properties = encryption.create_encryption_properties(
        FOOTER_KEY, aad_prefix=b"table-1", store_aad_prefix=False, plaintext_footer=plain_footer
    )
    parquet.write_table(table(), folder / "a.parquet", encryption_properties=properties)
    assert b"text 1" not in (folder / "a.parquet").read_bytes()
    keys = key_file(tmp_path, f'footer_key = "{written}"\naad_prefix = "table-1"\n')
    report = bring(home, folder, parquet_key_file=keys)
    assert contents(home, report.record) == expected("a.parquet")
    with pytest.raises(BrokenSource, match=r"a\.parquet: .*\(parquet_key_file\)"):
        bring(home, folder)
    other = key_file(tmp_path, f'footer_key = "{bytes(16).hex()}"\naad_prefix = "table-1"\n')
    with pytest.raises(BrokenSource, match=r"a\.parquet"):
        bring(home, folder, parquet_key_file=other)


class LocalKms(encryption.KmsClient):  # type: ignore[misc]
    """Wraps as parquet-java's `KeyToolkit.encryptKeyLocally` does."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        super().__init__()
        self.keys = keys

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        nonce = os.urandom(12)
        sealed = AESGCM(self.keys[master_key_identifier]).encrypt(
            nonce, key_bytes, master_key_identifier.encode()
        )
        return base64.b64encode(nonce + sealed)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        raise NotImplementedError


@pytest.mark.parametrize("double", [True, False])
def test_a_file_encrypted_by_columns_under_master_keys_is_read(
    home: IntakeHome, folder: Path, tmp_path: Path, double: bool
) -> None:
    masters = {"foot": os.urandom(16), "column": os.urandom(32)[:16]}
    factory = encryption.CryptoFactory(lambda _: LocalKms(masters))
    properties = factory.file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(
            footer_key="foot", column_keys={"column": ["text", "label"]}, double_wrapping=double
        ),
    )
    parquet.write_table(table(), folder / "a.parquet", encryption_properties=properties)
    lines = "".join(f'{name} = "{base64.b64encode(key).decode()}"\n' for name, key in masters.items())
    keys = key_file(tmp_path, f"[master_keys]\n{lines}")
    assert contents(home, bring(home, folder, parquet_key_file=keys).record) == expected("a.parquet")
    fewer = key_file(tmp_path, f'[master_keys]\nfoot = "{masters["foot"].hex()}"\n')
    with pytest.raises(BrokenSource, match=r"a\.parquet"):
        bring(home, folder, parquet_key_file=fewer)


def test_key_files_are_private_outside_the_source_and_never_quoted(
    home: IntakeHome, folder: Path, tmp_path: Path
) -> None:
    parquet.write_table(table(), folder / "a.parquet")
    secret = "quite secret words"
    for text in (f"footer_key = {secret}", f'footer_key = "{secret}"', f'key = "{secret}"', ""):
        with pytest.raises(ConfigError, match=r"parquet-keys\.toml") as raised:
            bring(home, folder, parquet_key_file=key_file(tmp_path, text))
        assert secret not in str(raised.value) + raised.value.hint
    path = key_file(tmp_path, f'footer_key = "{FOOTER_KEY.hex()}"')
    Path(path).chmod(0o644)
    with pytest.raises(LooseKeyFile):
        bring(home, folder, parquet_key_file=path)
    Path(path).chmod(0o600)
    inside = folder / "keys.toml"
    Path(path).rename(inside)
    with pytest.raises(ConfigError, match="lies inside the source"):
        bring(home, folder, parquet_key_file=str(inside))
    inside.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        bring(home, folder, parquet_key_file=path)
    assert nothing_is_left(home)


# --- Hugging Face


def save_to_disk(folder: Path, rows: pyarrow.Table, parts: int = 2, features: object = None) -> None:
    """What `Dataset.save_to_disk` of the package datasets writes."""
    folder.mkdir(parents=True)
    names = [f"data-{part:05}-of-{parts:05}.arrow" for part in range(parts)]
    size = -(-rows.num_rows // parts)
    for part, name in enumerate(names):
        with (folder / name).open("wb") as file, pyarrow.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(rows.slice(part * size, size), max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "f", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))


def test_a_saved_data_set_and_one_of_splits_are_read(home: IntakeHome, folder: Path) -> None:
    media = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.table(
        {
            "image": pyarrow.array([{"bytes": jpeg(row), "path": None} for row in range(5)], media),
            "label": [0, 1, 0, 1, 0],
        }
    )
    for split in ("train", "test"):
        save_to_disk(folder / split, rows)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (folder / "train/cache-1.arrow").write_bytes(b"of another life")
    report = bring(home, folder)
    found = contents(home, report.record)
    assert (len(found), report.form, reasons(report)) == (20, Form.HUGGING_FACE, {"not_of_form": 1})
    assert found["train/data-00001-of-00002.arrow/000000001.jpg"] == jpeg(4)
    assert found["test/data-00000-of-00002.arrow/000000001.cls"] == b"1"
    assert report.decided[1] == "Columns: image from 'image'; label from 'label'."


def test_labels_of_a_saved_data_set_are_held_against_its_classes(home: IntakeHome, folder: Path) -> None:
    names = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    save_to_disk(folder / "d", rows_with(label=2).replace_schema_metadata(), parts=1, features=names)
    report = leaving_out(home, folder / "d")
    assert reasons(report) == {"bad_label": 2}
    with pytest.raises(LabelMismatch, match="row 1 has label 2; it must be 0 to 1"):
        bring(home, folder / "d")


def test_references_to_files_are_not_followed(home: IntakeHome, folder: Path) -> None:
    media = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    column = pyarrow.array([{"bytes": None, "path": "/etc/passwd"}, {"bytes": png(), "path": None}], media)
    save_to_disk(folder / "d", pyarrow.table({"image": column}), parts=1)
    with pytest.raises(BrokenSource, match="row 0 refers in column 'image' to a file, which is not followed"):
        bring(home, folder / "d")
    report = leaving_out(home, folder / "d")
    assert list(contents(home, report.record).values()) == [png()]


BROKEN_SETS: dict[str, tuple[Any, str]] = {
    "data cut off": (lambda at: at.write_bytes(at.read_bytes()[:-60]), "is no whole Arrow stream"),
    "data missing": (lambda at: at.unlink(), "names data-00000-of-00002.arrow, which is not there"),
    "no stream": (lambda at: at.write_bytes(b"x" * 500), "a"),
    "huge body": (
        lambda at: at.write_bytes(at.read_bytes()[:4] + b"\xff\xff\xff\x7f" + at.read_bytes()[8:]),
        "a",
    ),
    "state": (lambda at: (at.parent / "state.json").write_text("{"), r"state\.json is no JSON object"),
    "state names none": (lambda at: (at.parent / "state.json").write_text("{}"), "does not list data files"),
}


@pytest.mark.parametrize("what", BROKEN_SETS)
def test_a_broken_saved_data_set_is_named(home: IntakeHome, folder: Path, what: str) -> None:
    breaks, says = BROKEN_SETS[what]
    save_to_disk(folder / "d", table())
    breaks(folder / "d/data-00000-of-00002.arrow")
    with pytest.raises((BrokenSource, SourceTooMuch), match=says):
        bring(home, folder / "d")
    assert nothing_is_left(home)
    if "state" not in what:
        report = leaving_out(home, folder / "d")
        assert set(contents(home, report.record)) >= {"data-00001-of-00002.arrow/000000000.txt"}


def test_a_split_that_is_named_and_not_there_is_told(home: IntakeHome, folder: Path) -> None:
    save_to_disk(folder / "train", table())
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(BrokenSource, match="names split test, which is not there"):
        bring(home, folder)


# --- the worker


def dies(side: WorkerSide) -> None:
    side.row(0, [Cell(Role.TEXT, side.read(0, 3))])
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(side: WorkerSide) -> None:
    signal.pause()


def writes(side: WorkerSide) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    Path(f"/tmp/stoker-worker-{os.getpid()}").write_bytes(b"plain")


def eats(side: WorkerSide) -> None:
    bytearray(1 << 30)


def babbles(side: WorkerSide) -> None:
    side._connection.send_bytes(b"V" + bytes(8) + b"\x01\x00\xff\xff\xff\xff")


def reads_outside(side: WorkerSide) -> None:
    side.size_bytes = 1 << 40
    side.read(1 << 30, 10)


@pytest.mark.parametrize(
    ("parser", "says"),
    [
        (dies, "its parser was ended by signal 11"),
        (hangs, "its parser was silent for 0.5 s and was ended"),
        (writes, r"it cannot be parsed \((OSError|PermissionError)\)"),
        (eats, "takes more than 268435456 bytes of memory"),
        (babbles, "its parser answered nonsense"),
        (reads_outside, "its parser answered nonsense"),
    ],
)
def test_atk_055_a_worker_that_misbehaves_is_ended_and_named(parser: Any, says: str) -> None:
    with pytest.raises(StreamFault, match=says):
        list(
            parse_confined(
                parser, BytesSource(b"abc"), memory_bytes=256 << 20, silent_s=0.5 if parser is hangs else 60.0
            )
        )
    assert multiprocessing.active_children() == []
    assert not list(Path("/tmp").glob("stoker-worker-*")) or all(
        path.stat().st_size == 0 for path in Path("/tmp").glob("stoker-worker-*")
    )


def test_an_import_that_is_given_up_ends_its_worker(home: IntakeHome, folder: Path) -> None:
    parquet.write_table(table(6), folder / "a.parquet")
    with pytest.raises(SourceTooMuch, match="more than 7 items"):
        bring(home, folder, limits=ImportLimits(items_per_file=7))
    assert multiprocessing.active_children() == []
