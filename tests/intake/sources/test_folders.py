"""Folders of records, of pictures by class, of clips with transcripts; headers that claim too much."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.intake.errors import BadMedia, BrokenSource, DuplicateName, EmptySource, LabelMismatch
from stoker.intake.sources.media import HeaderFault, kind_of, probe
from stoker.spec.source import Form, ImportLimits, NotText
from support.import_sources import bring, contents, leaving_out, nothing_is_left, reasons
from support.intake_home import IntakeHome, intake_home
from support.media_samples import (
    jpeg,
    jpeg_of_claimed_size,
    picture,
    png,
    png_of_claimed_size,
    sound,
    wav,
    wav_of_claimed_bytes,
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


# --- records side by side


def test_pictures_clips_and_texts_of_one_name_are_taken_as_they_lie(home: IntakeHome, folder: Path) -> None:
    files = {
        "a/1.cls": b"4",
        "a/1.jpg": jpeg(),
        "a/1.json": b"{}",
        "a/1.txt": b"caption",
        "b.flac": sound("FLAC"),
        "b.txt": b"said",
    }
    write(folder, files)
    report = bring(home, folder)
    assert contents(home, report.record) == files
    assert report.form is Form.RECORDS
    write(folder, {"page.html": b"<html>", "logo.png": png()})
    report = bring(home, folder)
    assert report.form is Form.FOLDER
    assert reasons(report) == {"not_utf8": 3}
    assert "a/1.txt" in contents(home, report.record)


def test_bytes_that_are_neither_text_nor_media_follow_not_text(home: IntakeHome, folder: Path) -> None:
    write(folder, {"1.jpg": jpeg(), "1.npy": b"\x93NUMPY", "1.mp3": b"\xff\xfb\x90\x64"})
    report = bring(home, folder, form=Form.RECORDS)
    assert reasons(report) == {"not_utf8": 2}
    with pytest.raises(Exception, match=r"1\.mp3 is not UTF-8"):
        bring(home, folder, form=Form.RECORDS, not_text=NotText.REFUSE)


# --- pictures by class

CLASSES = {"cat/1.jpg": jpeg(1), "cat/deep/2.png": png(2), "dog/1.jpg": jpeg(3)}


def test_each_picture_of_an_image_folder_has_its_folders_name_as_label(
    home: IntakeHome, folder: Path
) -> None:
    write(folder, CLASSES)
    report = bring(home, folder)
    assert contents(home, report.record) == {
        "cat/1.jpg": jpeg(1),
        "cat/1.label": b"cat",
        "cat/deep/2.png": png(2),
        "cat/deep/2.label": b"cat",
        "dog/1.jpg": jpeg(3),
        "dog/1.label": b"dog",
    }
    assert report.form is Form.IMAGE_FOLDER
    found = contents(home, bring(home, folder, label_folder=-1).record)
    assert found["cat/deep/2.label"] == b"deep"


IMAGE_FAULTS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "at the top": ({"top.jpg": jpeg()}, "no_class", r"top\.jpg lies in no folder"),
    "empty class": ({"fish/none.txt": b"no picture"}, "empty_class", "fish/ stands for a class"),
    "one name, two kinds": (
        {"cat/1.png": png()},
        "duplicate",
        r"cat/1\.label is in the source more than once",
    ),
    "named like a picture": ({"cat/3.jpg": b"text"}, "not_media", r"cat/3\.jpg is named like a picture"),
}


@pytest.mark.parametrize("what", IMAGE_FAULTS)
def test_what_does_not_fit_an_image_folder_is_named(home: IntakeHome, folder: Path, what: str) -> None:
    files, reason, says = IMAGE_FAULTS[what]
    write(folder, CLASSES | files)
    with pytest.raises((LabelMismatch, DuplicateName, BadMedia), match=says):
        bring(home, folder, form=Form.IMAGE_FOLDER)
    assert nothing_is_left(home)
    report = leaving_out(home, folder, form=Form.IMAGE_FOLDER)
    counted = reasons(report)
    assert counted.pop("not_of_form", 0) == (what == "empty class")
    assert counted == {reason: 1}
    assert len(contents(home, report.record)) == 6


def test_a_class_without_any_file_is_told(home: IntakeHome, folder: Path) -> None:
    write(folder, CLASSES)
    (folder / "bird").mkdir()
    with pytest.raises(LabelMismatch, match="bird/ stands for a class"):
        bring(home, folder)
    assert reasons(leaving_out(home, folder)) == {"empty_class": 1}


# --- clips with transcripts


def test_librispeechs_transcripts_go_with_their_clips(home: IntakeHome, folder: Path) -> None:
    clip = sound("FLAC")
    write(
        folder,
        {
            "19/198/19-198-0000.flac": clip,
            "19/198/19-198-0001.flac": clip,
            "19/198/19-198.trans.txt": b"19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE WORK\n",
            "SPEAKERS.md": b"who",
        },
    )
    report = bring(home, folder)
    assert contents(home, report.record) == {
        "19/198/19-198-0000.flac": clip,
        "19/198/19-198-0000.txt": b"NORTHANGER ABBEY",
        "19/198/19-198-0001.flac": clip,
        "19/198/19-198-0001.txt": b"THIS LITTLE WORK",
    }
    assert (report.form, reasons(report)) == (Form.AUDIO_FOLDER, {"not_of_form": 1})


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_a_table_of_transcripts_names_files_texts_and_labels(
    home: IntakeHome, folder: Path, separator: str
) -> None:
    table = "file,sentence,speaker\nclips/a.wav,Good day.,ada\nclips/b,Good night.,bob\n".replace(
        ",", separator
    )
    write(folder, {"list.tsv": table.encode(), "clips/a.wav": wav(), "clips/b.ogg": sound("OGG")})
    report = bring(
        home,
        folder,
        transcripts="list.tsv",
        delimiter=separator,
        text_column="sentence",
        label_column="speaker",
    )
    assert contents(home, report.record) == {
        "clips/a.wav": wav(),
        "clips/a.txt": b"Good day.",
        "clips/a.label": b"ada",
        "clips/b.ogg": (folder / "clips/b.ogg").read_bytes(),
        "clips/b.txt": b"Good night.",
        "clips/b.label": b"bob",
    }


AUDIO_FAULTS: dict[str, tuple[str, str, type[Exception], str]] = {
    "clip missing": (
        "file,text\na.wav,x\nb.wav,y\nc.wav,z\n",
        "no_clip",
        LabelMismatch,
        r"t\.csv line 4 names clip c",
    ),
    "transcript missing": (
        "file,text\nb.wav,y\n",
        "no_transcript",
        LabelMismatch,
        r"Clip a\.wav has no transcript",
    ),
    "twice": (
        "file,text\na.wav,x\nb.wav,y\na.wav,z\n",
        "duplicate",
        DuplicateName,
        r"line 4 gives clip a\.wav",
    ),
    "width": (
        "file,text\na.wav,x\nb.wav,y\na.wav\n",
        "bad_row",
        BrokenSource,
        r"t\.csv line 4 has 1 columns",
    ),
    "no text": ("file,text\na.wav,x\nb.wav,y\nc.wav,\n", "bad_row", BrokenSource, r"t\.csv line 4 lacks"),
    "outside": (
        "file,text\na.wav,x\nb.wav,y\n../c.wav,z\n",
        "no_clip",
        LabelMismatch,
        r"names clip \.\./c\.wav",
    ),
}


@pytest.mark.parametrize("what", AUDIO_FAULTS)
def test_transcripts_and_clips_that_do_not_match_are_named(home: IntakeHome, folder: Path, what: str) -> None:
    table, reason, error, says = AUDIO_FAULTS[what]
    write(folder, {"t.csv": table.encode(), "a.wav": wav(), "b.wav": wav()})
    with pytest.raises(error, match=says):
        bring(home, folder, transcripts="t.csv")
    assert nothing_is_left(home)
    report = leaving_out(home, folder, transcripts="t.csv")
    assert reasons(report) == {reason: 1}
    assert len(contents(home, report.record)) == (2 if what == "transcript missing" else 4)


def test_a_broken_line_of_a_trans_file_and_transcripts_that_are_not_there(
    home: IntakeHome, folder: Path
) -> None:
    write(folder, {"x.trans.txt": b"a HELLO\nb\n", "a.wav": wav()})
    with pytest.raises(BrokenSource, match=r"x\.trans\.txt line 2"):
        bring(home, folder)
    assert reasons(leaving_out(home, folder)) == {"bad_row": 1}
    with pytest.raises(LabelMismatch, match=r"nowhere\.csv are not in the source"):
        bring(home, folder, transcripts="nowhere.csv")


# --- headers that claim too much

CLAIMS: dict[str, tuple[str, bytes, str, str]] = {
    "png": (
        "x.png",
        png_of_claimed_size(100_000, 100_000),
        "too_many_pixels",
        "claims 100000 × 100000 pixels",
    ),
    "jpeg": ("x.jpg", jpeg_of_claimed_size(65_535, 65_535), "too_many_pixels", "claims 65535 × 65535 pixels"),
    "jpeg without height": ("x.jpg", jpeg_of_claimed_size(100, 0), "bad_media", "100 × 0 pixels"),
    "wav of 2^32 samples": (
        "x.wav",
        wav_of_claimed_bytes(0xFFFFFFFF),
        "bad_media",
        "claims 2147483647 samples",
    ),
    "wav of some more": ("x.wav", wav_of_claimed_bytes(162), "bad_media", "claims 81 samples .* holds 80"),
    "png cut off": ("x.png", png()[:20], "bad_media", "ends inside its header"),
    "wav cut off": ("x.wav", wav()[:30], "bad_media", "x.wav is broken"),
    "long flac": ("x.flac", b"", "bad_media", "claims 68719476735 samples a channel"),
    "long ogg": ("x.ogg", b"", "too_many_samples", r"claims \d{13,} samples"),
}


def lying(what: str) -> bytes:
    data = CLAIMS[what][1]
    if what == "long flac":
        whole = bytearray(sound("FLAC"))
        whole[21:26] = bytes([whole[21] | 0x0F]) + b"\xff" * 4
        data = bytes(whole)
    elif what == "long ogg":
        whole = bytearray(sound("OGG"))
        at = whole.rindex(b"OggS")
        whole[at + 6 : at + 14] = struct.pack("<q", 1 << 40)
        data = bytes(whole)
    return data


@pytest.mark.parametrize("what", CLAIMS)
def test_atk_061_a_picture_or_clip_that_claims_too_much_is_named_without_decoding_it(
    home: IntakeHome, folder: Path, what: str
) -> None:
    name, _, reason, says = CLAIMS[what]
    write(folder, {name: lying(what), "good.jpg": jpeg(), "good.txt": b"x"})
    with pytest.raises(BadMedia, match=says):
        bring(home, folder, form=Form.RECORDS)
    assert nothing_is_left(home)
    report = leaving_out(home, folder, form=Form.RECORDS)
    assert reasons(report) == {reason: 1}
    assert list(contents(home, report.record)) == ["good.jpg", "good.txt"]


def test_the_limits_on_pixels_and_samples_are_settings(home: IntakeHome, folder: Path) -> None:
    write(folder, {"x.jpg": jpeg(size=(10, 10)), "y.wav": wav(frames=100)})
    limits = ImportLimits(pixels=99, audio_samples=99)
    with pytest.raises(EmptySource, match="1 too_many_pixels, 1 too_many_samples"):
        leaving_out(home, folder, form=Form.RECORDS, limits=limits)
    assert len(contents(home, leaving_out(home, folder, form=Form.RECORDS).record)) == 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "webp lossless", "webp alpha", "progressive"])
def test_the_header_of_every_kind_of_picture_is_read(kind: str) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    image = Image.new("RGBA" if kind == "webp alpha" else "RGB", (321, 123), (1, 2, 3))
    if kind.startswith("webp"):
        image.save(out, "WEBP", lossless=True)
    elif kind == "progressive":
        image.save(out, "JPEG", progressive=True, exif=b"Exif\0\0" + b"x" * 2000)
    else:
        image.save(out, kind)
    facts = probe(out.getvalue())
    assert (facts.width, facts.height, facts.pixels) == (321, 123, 321 * 123)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_the_header_of_every_kind_of_clip_is_read(kind: str) -> None:
    data = sound(kind, frames=4000)
    assert probe(data).samples == 8000
    assert kind_of(data) == f".{kind.lower()}"


@pytest.mark.parametrize(
    "make", [lambda: picture("WEBP"), jpeg, png, wav, lambda: sound("FLAC"), lambda: sound("OGG")]
)
def test_no_cut_of_a_header_raises_anything_but_its_fault(make: object) -> None:
    data = make()  # type: ignore[operator]
    seen = 0
    for length in range(min(len(data), 400)):
        try:
            probe(data[:length])
        except HeaderFault:
            seen += 1
    assert seen > 10


def test_clips_and_pictures_leave_no_plain_bytes_in_the_home(home: IntakeHome, folder: Path) -> None:
    write(folder, CLASSES)
    bring(home, folder)
    shutil.rmtree(folder)
    stored = [path.read_bytes() for path in home.root.rglob("*") if path.is_file()]
    assert not any(b"JFIF" in data or b"IHDR" in data or b"cat/1" in data for data in stored)
