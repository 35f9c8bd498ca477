"""Images and sound, decoded: what comes out, and what files that lie, are cut or are no such files get."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from stoker.core.errors import MissingExtra
from stoker.feed.decode_pool import DecodeJob, DecodePool
from stoker.feed.decode_spec import AudioSpec, DecodeSpec, ImageSpec
from stoker.feed.errors import BadFeedSetting
from stoker.feed.media import (
    IMAGE_FORMATS,
    SOUND_FORMATS,
    AudioDecoder,
    Decoder,
    ImageDecoder,
    formats_of,
    resample,
)
from stoker.feed.record_batch import Fault
from support.media_files import (
    image_file,
    jpeg_claiming,
    picture,
    png_claiming,
    sound_file,
    tone,
    wav_claiming,
    webp_claiming,
)

ALL_IMAGES = formats_of("", IMAGE_FORMATS)
ALL_SOUND = formats_of("", SOUND_FORMATS)


def _image(data: bytes, spec: ImageSpec, formats: tuple[str, ...] = ALL_IMAGES) -> np.ndarray:
    out = bytearray(3 * spec.height * spec.width)
    assert ImageDecoder(spec, formats).decode(data, memoryview(out)) == len(out)
    return np.frombuffer(out, np.uint8).reshape(3, spec.height, spec.width)


def _sound(data: bytes, spec: AudioSpec) -> np.ndarray:
    out = bytearray(4 * spec.samples)
    length = AudioDecoder(spec, ALL_SOUND).decode(data, memoryview(out))
    found = np.frombuffer(out, np.float32)
    assert not found[length:].any()
    return found[:length]


def _faults(decoder: Decoder, files: list[bytes]) -> list[Fault | None]:
    """What each file gets from a worker that has 64 MiB: so nothing of a claimed size was ever made."""
    with DecodePool(
        [decoder], processes=1, max_encoded_bytes=1 << 20, memory_bytes=1 << 26, time_limit_s=60.0
    ) as pool:
        into = np.ones((len(files), decoder.out_bytes), np.uint8)
        jobs = [DecodeJob(0, memoryview(data), row) for data, row in zip(files, into, strict=True)]
        faults = [outcome.fault for outcome in pool.run(jobs)]
    assert all(fault is None or not row.any() for fault, row in zip(faults, into, strict=True))
    return faults


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_lossless_image_of_the_asked_size_comes_out_as_it_is(form: str, options: dict[str, bool]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = _image(image_file(pixels, form, **options), ImageSpec(24, 32))
    assert np.array_equal(found, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(24, 32), (48, 64), (300, 500), (11, 7)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_scaled_until_it_covers_and_its_centre_is_cut_out(
    form: str, height: int, width: int
) -> None:
    """Left third red, the rest blue: where the border comes to lie shows scale and cut."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 3, 0], pixels[:, width // 3 :, 2] = 200, 200
    found = _image(image_file(pixels, form), ImageSpec(16, 16)).astype(int)
    scale = max(16 / height, 16 / width)
    border = round((width // 3 - (width - 16 / scale) / 2) * scale)
    red = found[0].mean(axis=0) > found[2].mean(axis=0)
    assert abs(int(red.sum()) - max(0, border)) <= 1
    assert not red[max(0, border) + 1 :].any()


def test_a_longer_shorter_side_cuts_a_smaller_centre() -> None:
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[20:40, 20:40] = 255
    found = _image(image_file(pixels, "PNG"), ImageSpec(20, 20, shorter=60))
    assert found.min() == 255
    assert _image(image_file(pixels, "PNG"), ImageSpec(20, 20)).min() == 0


def test_grey_palette_alpha_and_animated_images_become_rgb() -> None:
    grey = np.full((8, 8), 77, np.uint8)
    assert (_image(image_file(grey), ImageSpec(8, 8)) == 77).all()
    alpha = np.full((8, 8, 4), (9, 99, 199, 0), np.uint8)
    assert _image(image_file(alpha, "PNG"), ImageSpec(4, 4))[:, 0, 0].tolist() == [9, 99, 199]
    target = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(target, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert _image(target.getvalue(), ImageSpec(8, 8))[:, 0, 0].tolist() == [250, 0, 0]
    palette = Image.fromarray(picture(7)).quantize(4)
    target = io.BytesIO()
    palette.save(target, "PNG")
    assert _image(target.getvalue(), ImageSpec(8, 8))[:, 3, 3].tolist() == picture(7)[0, 0].tolist()


def test_images_that_lie_are_cut_or_are_no_images_are_faults() -> None:
    png, jpeg = image_file(picture(5, 90, 80), "PNG"), image_file(picture(5, 90, 80))
    noise = np.random.default_rng(1).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    webp, noisy = image_file(noise, "WEBP"), image_file(noise)
    lossless = image_file(noise, "WEBP", lossless=True)
    wall = lossless[:21] + struct.pack("<I", 16_382 | 16_382 << 14) + lossless[25:]
    files: list[tuple[bytes, Fault | None]] = [
        (png, None),
        (png_claiming(100_000, 100_000), Fault.TOO_LARGE),
        (png_claiming(16_384, 16_384), Fault.TOO_LARGE),
        (png_claiming(100_000, 1), Fault.TOO_LARGE),
        (png_claiming(0, 5), Fault.UNDECODABLE),
        (png_claiming(2_000, 2_000), Fault.UNDECODABLE),
        (jpeg_claiming(65_535, 65_535), Fault.TOO_LARGE),
        (jpeg_claiming(1, 65_535), Fault.TOO_LARGE),
        (jpeg, None),
        (webp_claiming(16_777_216, 16), Fault.TOO_LARGE),
        (webp_claiming(16, 16), Fault.UNDECODABLE),
        (wall, Fault.TOO_LARGE),
        (webp, None),
        (lossless, None),
        (b"RIFF" + bytes(4) + b"WEBP" + bytes(100), Fault.UNDECODABLE),
        (noisy[: len(noisy) // 2], Fault.UNDECODABLE),
        (noisy[:3], Fault.UNDECODABLE),
        (webp[: len(webp) // 2], Fault.UNDECODABLE),
        (png[:-20], Fault.UNDECODABLE),
        (png[:8], Fault.UNDECODABLE),
        (b"GIF89a" + bytes(100), Fault.UNDECODABLE),
        (b"<svg/>", Fault.UNDECODABLE),
        (b"\0", Fault.UNDECODABLE),
        (jpeg, None),
    ]
    found = _faults(ImageDecoder(ImageSpec(32, 32), ALL_IMAGES), [data for data, _ in files])
    assert found == [fault for _, fault in files]


def test_an_image_of_another_format_than_the_field_says_is_a_fault() -> None:
    decoder = ImageDecoder(ImageSpec(8, 8), formats_of("image/jpeg", IMAGE_FORMATS))
    files = [image_file(picture(1)), image_file(picture(1), "PNG"), image_file(picture(1), "WEBP")]
    assert _faults(decoder, files) == [None, Fault.UNDECODABLE, Fault.UNDECODABLE]


def test_a_picture_within_the_limits_that_takes_too_much_memory_is_a_fault() -> None:
    decoder = ImageDecoder(ImageSpec(8, 8, max_side=20_000, max_pixels=1 << 28), ALL_IMAGES)
    large = image_file(np.zeros((6000, 6000), np.uint8), "PNG")
    assert _faults(decoder, [large, image_file(picture(1))]) == [Fault.MEMORY, None]


@pytest.mark.parametrize(
    ("form", "subtype", "within"),
    [("WAV", "PCM_16", 1e-4), ("WAV", "FLOAT", 1e-6), ("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.05)],
)
def test_a_clip_at_the_asked_rate_comes_out_as_it_is(form: str, subtype: str, within: float) -> None:
    signal = tone(440, 16_000, 0.25)
    found = _sound(sound_file(signal, 16_000, form, subtype), AudioSpec(16_000, 8000))
    assert len(found) == 4000
    assert np.abs(found - signal).max() < within


@pytest.mark.parametrize(
    ("rate", "target"), [(8000, 16_000), (44_100, 16_000), (48_000, 8000), (16_000, 11_025)]
)
def test_a_clip_at_another_rate_keeps_its_pitch_and_loses_what_the_rate_cannot_hold(
    rate: int, target: int
) -> None:
    signal = tone(500, rate, 1.0)
    if rate > target:
        signal = signal + tone(0.45 * rate, rate, 1.0)
    found = _sound(sound_file(signal, rate, "WAV", "FLOAT"), AudioSpec(target, target))
    assert len(found) == target
    assert np.abs(found - tone(500, target, 1.0)).max() < 1e-3


@pytest.mark.parametrize("count", [1, 2, 3, 997, 1000])
def test_resampling_keeps_a_constant_and_says_its_length(count: int) -> None:
    found = resample(np.ones(count, np.float32), 3, 7)
    assert len(found) == round(count * 7 / 3)
    np.testing.assert_allclose(found, 1, rtol=1e-5)
    assert not len(resample(np.ones(1, np.float32), 100, 1))


def test_channels_are_averaged_and_long_clips_are_cut_when_that_is_asked_for() -> None:
    signal = tone(300, 8000, 0.5)
    stereo = sound_file(np.stack([signal, np.zeros(4000)], axis=1), 8000, "WAV", "FLOAT")
    np.testing.assert_allclose(_sound(stereo, AudioSpec(8000, 4000)), signal / 2, atol=1e-6)
    for form in ("WAV", "FLAC", "OGG"):
        found = _sound(sound_file(signal, 8000, form), AudioSpec(8000, 1000, cut=True))
        assert len(found) == 1000
        assert np.abs(found - signal[:1000]).max() < 0.05


def test_sound_that_lies_is_cut_or_is_no_sound_is_a_fault() -> None:
    signal = tone(440, 8000, 0.5)
    wav, flac, ogg = (sound_file(signal, 8000, form) for form in ("WAV", "FLAC", "OGG"))
    streamed = bytearray(flac)
    streamed[4 + 4 + 13] |= 0x0F  # the total number of samples, 36 bits, claims nearly 2^36
    streamed[4 + 4 + 14 : 4 + 4 + 18] = b"\xff\xff\xff\xff"
    longer = bytearray(flac)
    longer[4 + 4 + 14 : 4 + 4 + 18] = struct.pack(">I", 5000)
    extra = wav[:12] + b"JUNK" + struct.pack("<I", 3) + b"abc\0" + wav[12:]
    infinite = sound_file(np.full(100, np.inf), 8000, "WAV", "FLOAT")
    files: list[tuple[bytes, Fault | None]] = [
        (wav, None),
        (flac, None),
        (ogg, None),
        (extra, None),
        (wav_claiming(2**32), Fault.TOO_LARGE),
        (wav_claiming(2**31), Fault.TOO_LARGE),
        (wav_claiming(200), Fault.UNDECODABLE),
        (wav_claiming(100), None),
        (wav_claiming(10, channels=60_000), Fault.TOO_LARGE),
        (wav_claiming(1, channels=9), Fault.TOO_LARGE),
        (wav_claiming(100, channels=0), Fault.UNDECODABLE),
        (wav_claiming(100, rate=0), Fault.UNDECODABLE),
        (wav[:-100], Fault.UNDECODABLE),
        (wav[:40], Fault.UNDECODABLE),
        (wav[:20], Fault.UNDECODABLE),
        (bytes(streamed), Fault.TOO_LARGE),
        (bytes(longer), Fault.UNDECODABLE),
        (flac[: len(flac) // 2], Fault.UNDECODABLE),
        (ogg[: len(ogg) // 2], Fault.UNDECODABLE),
        (ogg[:-1], Fault.UNDECODABLE),
        (infinite, Fault.UNDECODABLE),
        (sound_file(tone(440, 8000, 1.1), 8000), Fault.TOO_LARGE),
        (sound_file(np.zeros((10, 9)), 8000), Fault.TOO_LARGE),
        (b"ID3" + bytes(500), Fault.UNDECODABLE),
        (b"FORM" + bytes(500), Fault.UNDECODABLE),
        (b"\0", Fault.UNDECODABLE),
        (ogg, None),
    ]
    found = _faults(AudioDecoder(AudioSpec(8000, 8000), ALL_SOUND), [data for data, _ in files])
    assert found == [fault for _, fault in files]


def test_a_clip_that_is_cut_is_still_checked_for_what_it_claims() -> None:
    signal = tone(440, 8000, 0.5)
    wav, flac = sound_file(signal, 8000), sound_file(signal, 8000, "FLAC")
    decoder = AudioDecoder(AudioSpec(8000, 3999, cut=True), ALL_SOUND)
    files = [wav_claiming(2**32), wav, flac[: len(flac) // 2], wav[:-2]]
    assert _faults(decoder, files) == [Fault.TOO_LARGE, None, Fault.UNDECODABLE, Fault.UNDECODABLE]


def test_settings_out_of_range_are_refused_and_all_named() -> None:
    with pytest.raises(BadFeedSetting, match=r"height is 0.*max_side is 100000"):
        ImageSpec(0, 5, max_side=100_000)
    with pytest.raises(BadFeedSetting, match="rate is 1;"):
        AudioSpec(1, 5)
    with pytest.raises(BadFeedSetting, match="No field"):
        DecodeSpec()
    with pytest.raises(BadFeedSetting, match="as image and as audio"):
        DecodeSpec(image=ImageSpec(2, 2, field="x"), audio=AudioSpec(8000, 5, field="x"))
    with pytest.raises(BadFeedSetting, match="time_limit_s is 0"):
        DecodeSpec(image=ImageSpec(2, 2), time_limit_s=0)
    with pytest.raises(BadFeedSetting, match="processes is 0"):
        DecodeSpec(image=ImageSpec(2, 2), processes=0)


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("PIL", lambda: ImageDecoder(ImageSpec(8, 8), ALL_IMAGES)),
        ("soundfile", lambda: AudioDecoder(AudioSpec(8000, 8), ALL_SOUND)),
    ],
)
def test_without_its_package_decoding_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, make: Callable[[], Decoder]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match="not installed") as caught:
        make()
    assert "extra 'data'" in caught.value.hint
