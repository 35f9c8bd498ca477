"""Metadata is taken out of pictures and clips; pixels and samples stay; what is not understood is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from stoker.intake.errors import MediaNotStripped
from stoker.intake.media_review.strip import strip_media
from stoker.intake.media_review.strip_image import chunk_of
from stoker.intake.media_review.strip_ogg import checksum
from stoker.intake.media_review.stripped import Removed
from stoker.intake.sources.media import kind_of, probe
from support.media_files import image_file, picture, sound_file, tone

SECRET = b"Ada Lovelace, ada@example.org"


def exif(*, gps: bool = True, orientation: int = 6) -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = SECRET.decode()  # ImageDescription
    made[0x0112] = orientation
    if gps:
        made.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    return made


def xmp() -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><exif:GPSLatitude>52,31N</exif:GPSLatitude>'
        + SECRET
        + b"</x:xmpmeta>"
    )


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def png_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET.decode())
    info.add_text("Comment", SECRET.decode(), zip=True)
    info.add_itxt("Description", SECRET.decode(), zip=True)
    return info


PICTURES: dict[str, dict[str, Any]] = {
    "JPEG": {"exif": exif(), "xmp": xmp(), "comment": SECRET, "icc_profile": b"profile of " + SECRET},
    "PNG": {"exif": exif(), "pnginfo": png_text(), "icc_profile": b"profile of " + SECRET},
    "WEBP": {"exif": exif(), "xmp": xmp(), "icc_profile": b"profile of " + SECRET},
}


@pytest.mark.parametrize("form", PICTURES)
def test_pictures_lose_what_they_say_and_keep_their_pixels(form: str) -> None:
    data = image_file(picture(37), form, **PICTURES[form])
    stripped = strip_media(data + b"behind the end: " + SECRET, "image")
    assert SECRET not in stripped.data
    assert any(SECRET in each for each in stripped.metadata)
    assert stripped.gps
    assert {Removed.EXIF, Removed.ICC, Removed.TRAILING} <= stripped.removed
    np.testing.assert_array_equal(pixels_of(data), pixels_of(stripped.data))
    with Image.open(io.BytesIO(stripped.data)) as image:
        assert dict(image.getexif()) == {0x0112: 6}
        assert not {"comment", "xmp", "icc_profile", "Author", "Comment"} & image.info.keys()


@pytest.mark.parametrize("form", PICTURES)
def test_stripping_twice_changes_nothing(form: str) -> None:
    once = strip_media(image_file(picture(3), form, **PICTURES[form]), "image")
    twice = strip_media(once.data, "image")
    assert (twice.data, twice.removed, twice.metadata) == (once.data, frozenset(), ())


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 2}]
)
def test_every_jpeg_of_pixels_alone_stays_as_it_is(options: dict[str, Any]) -> None:
    data = image_file(picture(9, 60, 80), "JPEG", **options)
    assert strip_media(data, "image").data == data


def test_small_pictures_and_texts_inside_a_jpeg_go() -> None:
    data = image_file(picture(9), "JPEG")
    assert data[2:4] == b"\xff\xe0"
    with_thumbnail = data[:2] + b"\xff\xe0\0\x13" + data[6:18] + b"\x01\x01" + SECRET[:3] + data[20:]
    between = with_thumbnail[:-2] + b"\xff\xfe" + (2 + len(SECRET)).to_bytes(2, "big") + SECRET + b"\xff\xd9"
    iptc = b"Photoshop 3.0\x008BIM" + SECRET
    whole = between[:2] + b"\xff\xed" + (2 + len(iptc)).to_bytes(2, "big") + iptc + between[2:]
    stripped = strip_media(whole, "image")
    assert stripped.removed == {Removed.THUMBNAIL, Removed.COMMENT, Removed.IPTC}
    assert stripped.data == data


def test_a_jpeg_with_exif_without_a_place_is_not_said_to_have_one() -> None:
    stripped = strip_media(image_file(picture(1), "JPEG", exif=exif(gps=False, orientation=1)), "image")
    assert (stripped.gps, stripped.removed) == (False, {Removed.EXIF})
    assert stripped.data == image_file(picture(1), "JPEG")


def test_animations_keep_their_frames() -> None:
    frames = [Image.fromarray(picture(number)) for number in (1, 20, 40)]
    for form in ("WEBP", "PNG"):
        target = io.BytesIO()
        frames[0].save(target, form, save_all=True, append_images=frames[1:], lossless=True, exif=exif())
        stripped = strip_media(target.getvalue(), "image")
        assert SECRET not in stripped.data
        with (
            Image.open(io.BytesIO(target.getvalue())) as before,
            Image.open(io.BytesIO(stripped.data)) as after,
        ):
            assert after.n_frames == before.n_frames == 3
            for frame in range(3):
                before.seek(frame)
                after.seek(frame)
                np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def wav_with_tags() -> bytes:
    data = sound_file(tone(440, 8000, 0.1), 8000)
    chunks = b"".join(
        chunk_of(name, SECRET) for name in (b"LIST", b"bext", b"iXML", b"id3 ", b"JUNK", b"cue ")
    )
    body = data[8:] + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body + b"behind: " + SECRET


def flac_with_tags() -> bytes:
    data = tagged("FLAC")
    picture_block = (
        struct.pack(">III", 3, 0, len(SECRET)) + SECRET + bytes(16) + struct.pack(">I", 3) + b"pic"
    )
    end = 4 + 4 + int.from_bytes(data[5:8], "big")
    block = b"\x06" + len(picture_block).to_bytes(3, "big") + picture_block
    return data[:end] + block + data[end:] + (b"TAG" + SECRET).ljust(128, b"\0")


def tagged(form: str, subtype: str | None = None) -> bytes:
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", 48_000, 1, subtype, format=form) as clip:
        clip.title = SECRET.decode()
        clip.comment = SECRET.decode() * (3000 if subtype == "VORBIS" else 1)  # over several pages
        clip.write(tone(440, 48_000, 0.5))
    return target.getvalue()


CLIPS = {
    "wav": wav_with_tags(),
    "flac": flac_with_tags(),
    "vorbis": tagged("OGG", "VORBIS"),
    "opus": tagged("OGG", "OPUS"),
}


@pytest.mark.parametrize("form", CLIPS)
def test_clips_lose_what_they_say_and_keep_their_samples(form: str) -> None:
    data = CLIPS[form]
    stripped = strip_media(data, "audio")
    assert SECRET not in stripped.data
    assert Removed.TAGS in stripped.removed
    assert any(SECRET in each for each in stripped.metadata)
    before, rate = soundfile.read(io.BytesIO(data))
    after, same_rate = soundfile.read(io.BytesIO(stripped.data))
    assert rate == same_rate
    np.testing.assert_array_equal(before, after)
    assert probe(stripped.data).samples == probe(data).samples
    again = strip_media(stripped.data, "audio")
    assert (again.data, again.removed) == (stripped.data, frozenset())


def test_the_checksum_of_ogg_is_the_one_its_library_writes() -> None:
    data = CLIPS["opus"]
    segments = data[26]
    page = data[: 27 + segments + sum(data[27 : 27 + segments])]
    assert checksum(page[:22] + bytes(4) + page[26:]) == int.from_bytes(page[22:26], "little")


def test_two_streams_in_one_ogg_are_refused() -> None:
    for second in ("opus", "vorbis"):
        with pytest.raises(MediaNotStripped, match=r"more than one stream|second time"):
            strip_media(CLIPS["vorbis"] + CLIPS[second], "audio")


def test_a_wav_with_samples_twice_is_refused() -> None:
    """libsndfile plays the last samples, other programs the first."""
    data = sound_file(tone(440, 8000, 0.1), 8000)
    body = data[8:] + chunk_of(b"data", bytes(100))
    with pytest.raises(MediaNotStripped, match="twice"):
        strip_media(b"RIFF" + struct.pack("<I", len(body)) + body, "audio")


def test_what_is_not_of_the_kind_asked_for_is_refused() -> None:
    for data, media in ((CLIPS["wav"], "image"), (image_file(picture(1)), "audio"), (b"text", "image")):
        with pytest.raises(MediaNotStripped, match=r"no (image|audio)") as error:
            strip_media(data, media)
        assert "Leave the record out" in error.value.hint


def test_a_critical_png_chunk_that_is_not_known_is_refused() -> None:
    data = image_file(picture(1), "PNG")
    chunk = b"HIDE" + SECRET
    evil = (
        data[:33] + struct.pack(">I", len(SECRET)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    )
    with pytest.raises(MediaNotStripped, match="not known"):
        strip_media(evil, "image")


ALL = [*(image_file(picture(5), form, **PICTURES[form]) for form in PICTURES), *CLIPS.values()]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(range(len(ALL))), st.data())
def test_files_that_are_cut_or_bent_are_refused_or_stripped_and_never_anything_else(
    which: int, draw: st.DataObject
) -> None:
    data = bytearray(ALL[which])
    del data[draw.draw(st.integers(12, len(data))) :]
    for _ in range(draw.draw(st.integers(0, 3))):
        data[draw.draw(st.integers(0, min(len(data), 400) - 1))] = draw.draw(st.integers(0, 255))
    bent = bytes(data)
    media = "image" if kind_of(bent) in (".jpg", ".png", ".webp") else "audio"
    try:
        once = strip_media(bent, media)
    except MediaNotStripped as error:
        assert SECRET.decode() not in str(error)
        return
    assert strip_media(once.data, media).data == once.data
