"""What a scan looks at in one picture or clip: its metadata, what is personal in it, and faces.

Runs in `bounded` workers. Neither pixels nor samples are read for meaning but for faces.
See docs/design/measured.md, "Pictures and clips".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stoker.intake.detect.scan import find
from stoker.intake.errors import MediaNotStripped
from stoker.intake.media_review.strip import strip_media


@dataclass(frozen=True, slots=True)
class MediaTask:
    """An encoded picture ("image") or clip ("audio")."""

    media: str
    data: bytes


@dataclass(frozen=True, slots=True)
class MediaTold:
    """Which metadata it has, by the words of `Removed`; findings in it; `faces` None when not looked for."""

    stripped: bool
    removed: tuple[str, ...]
    findings: Mapping[str, int]
    faces: int | None


def start_media(faces: bool) -> Callable[[MediaTask], MediaTold]:
    """The function of a worker; loads the detector of faces where that is asked for. Raises MissingExtra."""
    find_faces = _finder() if faces else None

    def look(task: MediaTask) -> MediaTold:
        count = find_faces(task.data) if find_faces and task.media == "image" else None
        try:
            stripped = strip_media(task.data, task.media)
        except MediaNotStripped:
            return MediaTold(False, (), {}, count)
        findings: dict[str, int] = {}
        for part in stripped.metadata:
            for finding in find(part):
                findings[finding.kind.value] = findings.get(finding.kind.value, 0) + 1
        return MediaTold(True, tuple(sorted(each.value for each in stripped.removed)), findings, count)

    return look


def _finder() -> Callable[[bytes], int | None]:
    from stoker.intake.media_review.faces import Faces, NotLookedAt

    detector = Faces()

    def count(data: bytes) -> int | None:
        try:
            return len(detector.find(data))
        except NotLookedAt:
            return None

    return count
