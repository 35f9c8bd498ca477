"""Find faces in an encoded picture, and make them unrecognisable. See docs/design/measured.md, "Faces".

Runs in a worker that may be killed: pictures are decoded here, and were written by others.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stoker.intake.media_review.centerface import CenterFace, Face
from stoker.intake.sources.media import kind_of, probe

MARGIN: Final = 0.3
"""A face is blurred with so much of its size around it, on every side."""

BLUR_CELLS: Final = 4
"""What is left of a face: the mean colours of so many by so many cells, flowing into each other."""

MAX_ROUNDS: Final = 4
MAX_PIXELS: Final = 64_000_000
_JPEG_QUALITY: Final = 95
_FORMATS: Final = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class Blurred:
    """The picture with `faces` faces blurred; `data` is the original when there were none."""

    data: bytes
    faces: int


class NotLookedAt(ValueError):
    """The picture cannot be decoded, or is too large. `why` names no content."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Faces:
    """The detector with decoding and encoding around it. Raises MissingExtra when made."""

    def __init__(self) -> None:
        self._detector = CenterFace()

    def find(self, data: bytes) -> tuple[Face, ...]:
        """The faces of an encoded picture; of an animation, those of every frame. Raises NotLookedAt."""
        return tuple(face for frame in _frames(data) for face in self._detector.find(frame))

    def blur(self, data: bytes) -> Blurred:
        """The picture without a face that the detector finds, encoded anew, without metadata.

        Looked at again until none is found, at most `MAX_ROUNDS` times. Raises NotLookedAt, also for an
        animation with a face, and for a face that does not go away.
        """
        frames = _frames(data)
        count = 0
        for number, frame in enumerate(frames):
            for _ in range(MAX_ROUNDS):
                faces = self._detector.find(frame)
                if not faces:
                    break
                count += len(faces)
                for face in faces:
                    _smear(frame, face)
            else:
                raise NotLookedAt("a face stays however often it is blurred")
            frames[number] = frame
        if not count:
            return Blurred(data, 0)
        if len(frames) > 1:
            raise NotLookedAt("an animation has faces")
        return Blurred(_encoded(frames[0], data), count)


def _smear(pixels: npt.NDArray[np.uint8], face: Face) -> None:
    """Put the mean colours of a few cells in the place of a face, in `pixels` itself."""
    from PIL import Image

    height, width = pixels.shape[:2]
    more_x, more_y = MARGIN * (face.right - face.left), MARGIN * (face.bottom - face.top)
    left, right = max(0, int(face.left - more_x)), min(width, int(face.right + more_x) + 1)
    top, bottom = max(0, int(face.top - more_y)), min(height, int(face.bottom + more_y) + 1)
    if right - left < 1 or bottom - top < 1:
        return
    part = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    few = part.resize((BLUR_CELLS, BLUR_CELLS), Image.Resampling.BOX)
    pixels[top:bottom, left:right] = np.asarray(few.resize(part.size, Image.Resampling.BILINEAR))


def _frames(data: bytes) -> list[npt.NDArray[np.uint8]]:
    """Every frame in RGB, uint8 [height, width, 3], upright as EXIF says: faces are found upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if kind_of(data) not in _FORMATS:
        raise NotLookedAt("it is no picture of a known kind")
    try:
        pixels = probe(data).pixels
        if pixels > MAX_PIXELS:
            raise NotLookedAt("it has too many pixels")
        Image.MAX_IMAGE_PIXELS = None  # what the header claims was held against the limit above
        with Image.open(io.BytesIO(data)) as image:
            count = int(getattr(image, "n_frames", 1))
            if image.width * image.height * count > MAX_PIXELS:
                raise NotLookedAt("it has too many pixels")
            frames = []
            for number in range(count):
                image.seek(number)
                upright = ImageOps.exif_transpose(image) or image
                frames.append(np.array(upright.convert("RGB"), dtype=np.uint8))
            return frames
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, NotLookedAt):
            raise
        raise NotLookedAt("it cannot be decoded") from error


def _encoded(pixels: npt.NDArray[np.uint8], original: bytes) -> bytes:
    """The pixels in the original's format. Transparency is not kept: what was behind it could be a face."""
    from PIL import Image

    form = _FORMATS[kind_of(original) or ""]
    options: dict[str, Any] = {
        "JPEG": {"quality": _JPEG_QUALITY, "subsampling": 0},
        "PNG": {},
        "WEBP": {"lossless": b"VP8L" in original[:64]}
        | ({} if b"VP8L" in original[:64] else {"quality": 95}),
    }[form]
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **options)
    return target.getvalue()
