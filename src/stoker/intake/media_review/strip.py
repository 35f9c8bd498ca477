"""Take out of a picture or a clip all that is not needed for its pixels or samples. Pure.

What stays is named, not what goes: a segment or chunk of a kind that is not known to be needed is taken out.
A file whose structure is not understood to its end is refused, so nothing is clean by default. The one thing
kept of what an EXIF block says is which way is up, in a block written anew.
See docs/design/measured.md, "Metadata".
"""

from __future__ import annotations

from typing import Final

from stoker.intake.errors import MediaNotStripped
from stoker.intake.media_review.strip_audio import strip_flac, strip_wav
from stoker.intake.media_review.strip_image import strip_jpeg, strip_png, strip_webp
from stoker.intake.media_review.strip_ogg import strip_ogg
from stoker.intake.media_review.stripped import NotUnderstood, Stripped
from stoker.intake.sources.media import kind_of

_STRIPPERS: Final = {
    "image": {".jpg": strip_jpeg, ".png": strip_png, ".webp": strip_webp},
    "audio": {".wav": strip_wav, ".flac": strip_flac, ".ogg": strip_ogg},
}
MEDIA: Final = tuple(_STRIPPERS)


def strip_media(data: bytes, media: str) -> Stripped:
    """`data`, an encoded picture ("image") or clip ("audio"), without its metadata; pixels and samples stay.

    Its encoded pixels and samples are copied bit for bit, never decoded. Stripping twice changes nothing.
    Raises MediaNotStripped when `data` is no known kind of `media` or its structure is not understood.
    """
    stripper = _STRIPPERS[media].get(kind_of(data) or "")
    if stripper is None:
        raise _refused(f"it is no {media} of a known kind")
    try:
        return stripper(data)
    except NotUnderstood as error:
        raise _refused(error.why) from error


def _refused(why: str) -> MediaNotStripped:
    return MediaNotStripped(
        f"The metadata of a picture or clip cannot be taken out for certain: {why}.",
        hint="Leave the record out, or write the file anew with a program that knows its format.",
    )
