"""Each item on its way in is judged here: taken, left out with a reason, or the import stops.

See docs/design/intake.md, "What bad input gets".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stoker.core.errors import StokerError
from stoker.intake.errors import BadMedia, DuplicateName, LabelMismatch, SourceTooMuch, UnreadableFile
from stoker.intake.left_out import LeftOutTally, Reason, printable
from stoker.intake.sources.files import CANARY_NAME
from stoker.intake.sources.media import (
    AUDIO_EXTENSIONS,
    CLASS_EXTENSION,
    IMAGE_EXTENSIONS,
    HeaderFault,
    extension_of,
    kind_of,
    probe,
)
from stoker.spec.source import ImportSpec, NotText, OnFault, Twins

MAX_PATH_BYTES: Final = 65_535
"""What the index of a source has room for."""

MAX_INDEX_BYTES: Final = 1 << 30
"""An index that is longer could not be read back."""

_ENTRY_BYTES: Final = 54
_LEAVE: Final = 'Mend it, exclude its path, or import with on_fault = "leave_out".'


@dataclass(frozen=True, slots=True)
class Item:
    """What is sealed as one file of the source: a path inside it, and its bytes."""

    path: str
    data: bytes


class NotTaken(Exception):
    """Something is not taken: counted under `reason` with `place`, or, with `refusal`, the import stops."""

    def __init__(self, reason: Reason, place: str, refusal: StokerError | None = None) -> None:
        super().__init__(f"{reason}: {place}")
        self.reason = reason
        self.place = place
        self.refusal = refusal


class Judge:
    """The rules of one import, and what it has met so far.

    `left_out` counts what was not taken, `remarks` what was taken and a person should know of.
    """

    def __init__(self, spec: ImportSpec, left_out: LeftOutTally, remarks: LeftOutTally) -> None:
        self.spec = spec
        self.left_out = left_out
        self.remarks = remarks
        self._names: dict[bytes, bytes] = {}
        self._index_bytes = 0

    def fault(
        self, reason: Reason, kind: type[StokerError], place: str, text: str, hint: str = _LEAVE
    ) -> NotTaken:
        """Something broken: refused with `text`, a full sentence, or left out, as `on_fault` says."""
        if self.spec.on_fault is OnFault.LEAVE_OUT:
            return NotTaken(reason, place)
        return NotTaken(reason, place, kind(text, hint=hint))

    def settle(self, not_taken: NotTaken) -> None:
        """Count it, or raise its refusal."""
        if not_taken.refusal is not None:
            raise not_taken.refusal
        self.left_out.add(not_taken.reason, not_taken.place)

    def text(self, path: str, data: bytes) -> Item:
        """A file of a folder of text: any UTF-8. Raises NotTaken."""
        self._sized(path, len(data))
        self._utf8(path, data)
        return Item(path, data)

    def item(self, path: str, data: bytes) -> Item:
        """A file that belongs to a record: a picture, a clip, or UTF-8. Raises NotTaken.

        A picture or clip whose extension is another kind's is taken under the extension of its content.
        """
        self._sized(path, len(data))
        extension, found = extension_of(path), kind_of(data)
        if found is not None:
            self._media(path, data)
            return Item(self._named_by_content(path, extension, found), data)
        if extension in (*IMAGE_EXTENSIONS, *AUDIO_EXTENSIONS):
            raise self.fault(
                Reason.NOT_MEDIA,
                BadMedia,
                path,
                f"{printable(path)} is named like a picture or clip, but its bytes are of no known kind.",
            )
        self._utf8(path, data)
        if extension == CLASS_EXTENSION:
            self._class_number(path, data)
        return Item(path, data)

    def group(self, items: Sequence[Item]) -> Sequence[Item]:
        """These items, when every name is free; all or none. Raises NotTaken."""
        fresh: dict[bytes, bytes] = {}
        for item in items:
            self._safe(item.path)
            folded, exact = _digest(item.path.casefold()), _digest(item.path)
            before = fresh.get(folded, self._names.get(folded))
            if before == exact:
                text = f"{printable(item.path)} is in the source more than once."
                raise self.fault(Reason.DUPLICATE, DuplicateName, item.path, text)
            if before is not None:
                self._twin(item.path)
            fresh[folded] = exact
        self._names.update(fresh)
        self._index_bytes += sum(_ENTRY_BYTES + len(item.path.encode()) for item in items)
        if self._index_bytes > MAX_INDEX_BYTES - 4096:
            raise SourceTooMuch(
                f"The source has too many items: at {printable(items[-1].path)} its index passes "
                f"{MAX_INDEX_BYTES} bytes.",
                hint="Import it in parts, as several sources.",
            )
        return items

    def too_large(self, path: str, size_bytes: int) -> NotTaken | None:
        """Why a file of this size is left out, if it is, before any of it is read."""
        if size_bytes > self.spec.max_file_bytes:
            return NotTaken(Reason.TOO_LARGE, path)
        return NotTaken(Reason.EMPTY, path) if size_bytes == 0 else None

    def not_of_form(self, path: str) -> None:
        """A file beside those that the form is about."""
        self.left_out.add(Reason.NOT_OF_FORM, path)

    def class_number(self, place: str, number: int) -> None:
        """A class by its number. Raises NotTaken when it is out of range."""
        if number < 0 or (self.spec.classes and number >= self.spec.classes):
            highest = f"0 to {self.spec.classes - 1}" if self.spec.classes else "0 or more"
            text = f"{printable(place)} has label {str(number)[:20]}; it must be {highest}."
            raise self.fault(Reason.BAD_LABEL, LabelMismatch, place, text)

    def _sized(self, path: str, size_bytes: int) -> None:
        if not_taken := self.too_large(path, size_bytes):
            raise not_taken

    def _utf8(self, path: str, data: bytes) -> None:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            if self.spec.not_text is NotText.LEAVE_OUT:
                raise NotTaken(Reason.NOT_UTF8, path) from error
            refusal = UnreadableFile(
                f"{printable(path)} is not UTF-8: byte {error.start} does not belong there.",
                hint='Convert it, exclude its path, or import with not_text = "leave_out".',
            )
            raise NotTaken(Reason.NOT_UTF8, path, refusal) from error

    def _media(self, path: str, data: bytes) -> None:
        limits = self.spec.limits
        try:
            facts = probe(data)
        except HeaderFault as error:
            text = f"{printable(path)} is broken: {error}."
            raise self.fault(Reason.BAD_MEDIA, BadMedia, path, text) from error
        if facts.pixels > limits.pixels:
            text = (
                f"{printable(path)} claims {facts.width} × {facts.height} pixels; "
                f"at most {limits.pixels} are allowed."
            )
            raise self.fault(Reason.TOO_MANY_PIXELS, BadMedia, path, text)
        if facts.samples > limits.audio_samples:
            text = f"{printable(path)} claims {facts.samples} samples; at most {limits.audio_samples} are."
            raise self.fault(Reason.TOO_MANY_SAMPLES, BadMedia, path, text)

    def _named_by_content(self, path: str, extension: str, found: str) -> str:
        stem = path[: len(path) - len(extension)]
        if extension == ".jpeg" and found == ".jpg":
            found = ".jpeg"
        if extension != found:
            self.remarks.add(Reason.OTHER_EXTENSION, path)
        return stem + found

    def _class_number(self, path: str, data: bytes) -> None:
        digits = data.strip()
        if not digits.removeprefix(b"-").isdigit() or len(digits) > 18:
            text = f"{printable(path)} holds no class number: expected decimal digits."
            raise self.fault(Reason.BAD_LABEL, LabelMismatch, path, text)
        self.class_number(path, int(digits))

    def _safe(self, path: str) -> None:
        if path == CANARY_NAME:
            raise NotTaken(Reason.RESERVED_NAME, path)
        if len(path.encode()) > MAX_PATH_BYTES or "\0" in path:
            text = f"{printable(path)} is no name that a source can hold: too long, or with a zero in it."
            raise self.fault(Reason.UNSAFE_NAME, DuplicateName, path, text)

    def _twin(self, path: str) -> None:
        policy = self.spec.same_but_case
        if policy is Twins.TAKE:
            self.remarks.add(Reason.CASE_TWIN, path)
        elif policy is Twins.LEAVE_OUT:
            raise NotTaken(Reason.CASE_TWIN, path)
        else:
            refusal = DuplicateName(
                f"{printable(path)} differs from another name of the source only in case.",
                hint='Rename one, exclude it, or import with same_but_case = "take" or "leave_out".',
            )
            raise NotTaken(Reason.CASE_TWIN, path, refusal)


def _digest(path: str) -> bytes:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest()
