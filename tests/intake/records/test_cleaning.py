"""Pictures and clips of records go on without metadata, and without faces where the recipe says so."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from stoker.intake.records.cleaning import MediaCleaner, NotCleaned
from stoker.intake.records.decoding import Decoder
from stoker.intake.records.judging import (
    QUARANTINED,
    JudgingSettings,
    RecordBytes,
    decode_records,
    start_judging_records,
)
from stoker.spec.records import RecordPart, RecordsSpec
from support.faces import shipped

IMAGE, AUDIO, TEXT, LABEL = RecordPart
SECRET = b"Ada Lovelace, ada@example.org"


def photo(*, with_exif: bool = True) -> bytes:
    made = Image.Exif()
    made[0x010E] = SECRET.decode()
    made.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", **({"exif": made} if with_exif else {}))
    return file.getvalue()


def noisy(seconds: float = 0.1) -> bytes:
    """A WAV with a LIST chunk that names somebody."""
    samples = np.random.default_rng(2).integers(-9000, 9000, int(8000 * seconds), dtype="<i2").tobytes()
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    name = b"INFOIART" + struct.pack("<I", len(SECRET)) + SECRET + b"\0" * (len(SECRET) % 2)
    chunks = form + b"LIST" + struct.pack("<I", len(name)) + name + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(samples)) + b"WAVE" + chunks + samples


def test_metadata_goes_and_what_has_none_is_kept_as_it_is() -> None:
    spec = RecordsSpec((IMAGE, AUDIO))
    with MediaCleaner(spec) as cleaner:
        for part, data in ((IMAGE, photo()), (AUDIO, noisy())):
            cleaned = cleaner.cleaned(part, data)
            assert cleaned is not None
            assert SECRET in data
            assert SECRET not in cleaned
            assert cleaner.cleaned(part, cleaned) is None
    with MediaCleaner(RecordsSpec((IMAGE,), strip_metadata=False)) as cleaner:
        assert cleaner.cleaned(IMAGE, photo()) is None


def test_what_cannot_be_cleaned_for_certain_is_held_back_and_the_rest_lies_where_it_should() -> None:
    spec = RecordsSpec((IMAGE, AUDIO, TEXT), decode=False)
    judge = start_judging_records(JudgingSettings(spec, "", 2))
    cut = photo(with_exif=False)[:-2]  # no end of image

    def record(image: bytes, text: bytes) -> RecordBytes:
        return RecordBytes({IMAGE: image, AUDIO: noisy(), TEXT: text}, frozenset(), False)

    page = judge([record(photo(), b"one"), record(cut, b"two"), record(photo(with_exif=False), b"three")])
    first, second, third = decode_records(page.encode_records())
    assert second.fault == f"{QUARANTINED}metadata of its image not understood"
    assert (first.fault, third.fault, third.text_bytes) == ("", "", 5)
    assert page.kept[: first.text_bytes] == b"one"
    image = page.kept[3 : 3 + first.image_bytes]
    assert Image.open(io.BytesIO(image)).size == (16, 16)
    assert page.kept[first.kept_bytes :][: third.text_bytes] == b"three"
    assert SECRET not in page.kept
    assert len(page.kept) == first.kept_bytes + third.kept_bytes


def test_a_face_is_blurred_where_the_recipe_says_so_and_a_picture_of_no_one_is_kept() -> None:
    spec = RecordsSpec((IMAGE,), blur_faces=True, worker_s=300.0)
    with MediaCleaner(spec) as cleaner, Decoder(spec) as decoder:
        astronaut = shipped("astronaut.png")
        blurred = cleaner.cleaned(IMAGE, astronaut)
        assert blurred is not None
        assert decoder.fault(IMAGE, blurred) is None
        before, after = (
            np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (astronaut, blurred)
        )
        assert not np.array_equal(before[60:175, 170:280], after[60:175, 170:280])
        assert np.array_equal(before[300:], after[300:])
        with pytest.raises(NotCleaned, match="blurring its faces failed"):
            cleaner.cleaned(IMAGE, astronaut[:2000])
