"""One encoded file becomes an array, by Pillow or libsndfile. See docs/design/feed.md, "Decoding".

Runs in worker processes only: what it reads was written by others. Sizes that a file claims are checked
before anything is made of that size. A decoder raises MediaFault, MemoryError, or whatever a library raises
for a file it cannot read; the worker tells these three apart and nothing more.
"""

from __future__ import annotations

import io
import math
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from stoker.core.errors import MissingExtra
from stoker.feed.decode_spec import AudioSpec, ImageSpec
from stoker.feed.media_headers import (
    PNG_BEGIN,
    PNG_END,
    ogg_is_whole,
    sound_format,
    wav_claim,
    webp_size,
)
from stoker.feed.record_batch import Fault

IMAGE_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
SOUND_FORMATS: Final = {"audio/wav": "wav", "audio/flac": "flac", "audio/ogg": "ogg"}


class MediaFault(Exception):
    """A file that may not or cannot be decoded, for a reason that its claims show."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Decoder(Protocol):
    """Turns one encoded file into `out_bytes` bytes."""

    @property
    def out_bytes(self) -> int:
        """How many bytes the result has."""
        ...

    def decode(self, data: bytes, out: memoryview) -> int:
        """Fill `out`, which holds zeros; says how many values of it are meant, all of an image's."""
        ...


def formats_of(media: str, known: dict[str, str]) -> tuple[str, ...]:
    """The decoder's formats that a field's media type allows; all of them for "" and "image/*"."""
    return (known[media],) if media in known else tuple(known.values())


class ImageDecoder:
    """JPEG, PNG or WebP to uint8 [3, height, width]."""

    def __init__(self, spec: ImageSpec, formats: tuple[str, ...]) -> None:
        """Loads Pillow, so that workers which are forked afterwards have it. Raises MissingExtra."""
        self._spec = spec
        self._formats = formats
        try:
            from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
        except ModuleNotFoundError as error:
            raise _missing("Images", "Pillow") from error
        for plugin in (JpegImagePlugin, PngImagePlugin, WebPImagePlugin):
            assert plugin is not None
        self._image = Image

    @property
    def out_bytes(self) -> int:
        """One byte a pixel and colour."""
        return 3 * self._spec.height * self._spec.width

    def decode(self, data: bytes, out: memoryview) -> int:
        """Fill `out` with the picture. Raises MediaFault before anything is made of too many pixels."""
        spec = self._spec
        self._image.MAX_IMAGE_PIXELS = None  # this worker's own limits are below, and do not only warn
        if data[8:12] == b"WEBP":
            self._check_size(webp_size(data))
        if data[:8] == PNG_BEGIN and PNG_END not in data:  # Pillow does not miss what holds no pixel
            raise MediaFault(Fault.UNDECODABLE)
        with self._image.open(io.BytesIO(data), formats=self._formats) as image:
            self._check_size(image.size)
            width, height = image.size
            scale = self._scale(width, height)
            if scale < 1 and image.format == "JPEG":  # the decoder leaves out what scaling would throw away
                image.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
            picture = image.convert("RGB")
        scale = self._scale(*picture.size)
        wide, high = min(picture.width, spec.width / scale), min(picture.height, spec.height / scale)
        left, top = (picture.width - wide) / 2, (picture.height - high) / 2
        # One step, so that no picture of the scaled size is ever made: a line of pixels would become a wall.
        cut = picture.resize(
            (spec.width, spec.height),
            self._image.Resampling.BILINEAR,
            box=(left, top, left + wide, top + high),
        )
        into = np.frombuffer(out, dtype=np.uint8).reshape(3, spec.height, spec.width)
        np.copyto(into, np.asarray(cut).transpose(2, 0, 1))
        return self.out_bytes

    def _check_size(self, size: tuple[int, int] | None) -> None:
        if size is None:
            raise MediaFault(Fault.UNDECODABLE)
        if max(size) > self._spec.max_side or size[0] * size[1] > self._spec.max_pixels:
            raise MediaFault(Fault.TOO_LARGE)

    def _scale(self, width: int, height: int) -> float:
        """What a side is multiplied by: at least so much that the crop is covered."""
        covers = max(self._spec.width / width, self._spec.height / height)
        return max(covers, (self._spec.shorter or 0) / min(width, height))


class AudioDecoder:
    """WAV, FLAC or Ogg to float32 [samples], one channel at one rate."""

    def __init__(self, spec: AudioSpec, formats: tuple[str, ...]) -> None:
        """Loads soundfile, so that workers which are forked afterwards have it. Raises MissingExtra."""
        self._spec = spec
        self._formats = formats
        try:
            import soundfile
        except (ModuleNotFoundError, OSError) as error:  # OSError: the package is there, its library is not
            raise _missing("Sound", "soundfile") from error
        self._soundfile = soundfile

    @property
    def out_bytes(self) -> int:
        """Four bytes a sample."""
        return 4 * self._spec.samples

    def decode(self, data: bytes, out: memoryview) -> int:
        """Fill `out` with the clip; says how many samples it has. Raises MediaFault."""
        spec = self._spec
        kind = sound_format(data)
        if kind is None or kind not in self._formats:
            raise MediaFault(Fault.UNDECODABLE)
        self._check_claims(kind, data)
        with self._soundfile.SoundFile(io.BytesIO(data)) as sound:
            rate, frames = int(sound.samplerate), int(sound.frames)
            if sound.channels > spec.max_channels or not 1 <= rate <= spec.max_rate:
                raise MediaFault(Fault.TOO_LARGE)
            if frames < 0:
                raise MediaFault(Fault.UNDECODABLE)
            if _resampled(frames, rate, spec.rate) > spec.samples:
                if not spec.cut:
                    raise MediaFault(Fault.TOO_LARGE)
                frames = min(frames, math.ceil(spec.samples * rate / spec.rate))
            found = sound.read(frames, dtype="float32", always_2d=True)
        if len(found) != frames or not np.isfinite(found).all():
            raise MediaFault(Fault.UNDECODABLE)
        samples = resample(found.mean(axis=1), rate, spec.rate)[: spec.samples]
        np.frombuffer(out, dtype=np.float32)[: len(samples)] = samples
        return len(samples)

    def _check_claims(self, kind: str, data: bytes) -> None:
        if kind == "wav":
            claim = wav_claim(data)
            if claim is None:
                raise MediaFault(Fault.UNDECODABLE)
            if claim.channels > self._spec.max_channels:
                raise MediaFault(Fault.TOO_LARGE)
            if not claim.whole:
                most = math.ceil(self._spec.samples * self._spec.max_rate / self._spec.rate)
                raise MediaFault(Fault.TOO_LARGE if claim.frames > most else Fault.UNDECODABLE)
        elif kind == "ogg" and not ogg_is_whole(data):
            raise MediaFault(Fault.UNDECODABLE)


def resample(signal: npt.NDArray[np.float32], rate: int, target: int) -> npt.NDArray[np.float32]:
    """The signal at another rate, float32 [round(len · target / rate)], by cutting or filling its spectrum.

    So nothing above half the lower rate is left or made. The signal is taken as if it repeated, which is
    heard at its very edges only.
    """
    count = _resampled(len(signal), rate, target)
    if rate == target or not len(signal) or not count:
        return signal[:count]
    spectrum = np.fft.rfft(signal)
    kept = np.zeros(count // 2 + 1, dtype=spectrum.dtype)
    common = min(len(spectrum), len(kept))
    kept[:common] = spectrum[:common]
    found: npt.NDArray[Any] = np.fft.irfft(kept, count) * (count / len(signal))
    return found.astype(np.float32)


def _resampled(frames: int, rate: int, target: int) -> int:
    return (2 * frames * target + rate) // (2 * rate)


def _missing(what: str, package: str) -> MissingExtra:
    return MissingExtra(
        f"{what} are decoded by {package}, which is not installed.",
        hint="Install the extra 'data' from Stoker's clone.",
    )
