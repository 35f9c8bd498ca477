"""What every form of source is given and must do. See docs/design/intake.md, "Sources".

A form is a function from `Intake` to items in an order that depends on names and content alone. What it does
not take it hands to the judge, which counts it or stops the import.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from stoker.core.errors import StokerError
from stoker.intake.errors import BrokenSource, LabelMismatch, MissingColumn, SourceTooMuch
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.files import Candidate, SourceFiles
from stoker.intake.sources.judge import Item, Judge, NotTaken
from stoker.intake.sources.stream import FREE_BYTES, Stream, StreamFault, open_stream
from stoker.spec.source import ImportSpec


@dataclass(slots=True)
class Intake:
    """One import under way, as a form sees it. `advance` counts bytes of files; `said` is for the person.

    `root` is the local folder, None for a store; a key file may not lie inside it.
    """

    files: SourceFiles
    candidates: Sequence[Candidate]
    judge: Judge
    advance: Callable[[int], None]
    root: Path | None = None
    said: list[str] = field(default_factory=list)

    @property
    def spec(self) -> ImportSpec:
        return self.judge.spec

    def say(self, text: str) -> None:
        """Something that was decided, once."""
        if text not in self.said:
            self.said.append(text)

    def whole(self, candidate: Candidate) -> bytes | None:
        """The file's bytes; None when it was left out."""
        if not_taken := self.judge.too_large(candidate.path, candidate.size_bytes):
            self.judge.settle(not_taken)
            self.advance(candidate.size_bytes)
            return None
        data = self.files.read(candidate)
        self.advance(candidate.size_bytes)
        return data

    def rows(self, candidate: Candidate, read: RowForm) -> Iterator[Item]:
        """What `read` makes of the content of one file, bounded and with every fault settled."""
        opened = self.files.open(candidate)
        if opened is None:
            self.advance(candidate.size_bytes)
            return
        told = 0

        def advance(amount: int) -> None:
            nonlocal told
            told += amount
            self.advance(amount)

        bound = Bound(candidate, self.judge)
        try:
            with opened as source:
                stream = open_stream(source, advance, self.spec.limits.ratio)
                for item in read(self, candidate, stream):
                    bound.count(item)
                    yield item
            bound.end()
        except StreamFault as fault:
            self.judge.settle(self.broken(candidate, fault.reason, fault.text, fault.offset))
        except NotTaken as not_taken:
            self.judge.settle(not_taken)
        self.advance(candidate.size_bytes - told)

    def kind_of_fault(self, reason: Reason) -> type[StokerError]:
        """The error that stands for a reason when the import is to stop."""
        return {
            Reason.TOO_MUCH: SourceTooMuch,
            Reason.MISSING_COLUMN: MissingColumn,
            Reason.BAD_LABEL: LabelMismatch,
        }.get(reason, BrokenSource)

    def broken(self, candidate: Candidate, reason: Reason, text: str, offset: int | None = None) -> NotTaken:
        """The rest of a file cannot be read."""
        place = candidate.path if offset is None else f"{candidate.path} at byte {offset}"
        kind = self.kind_of_fault(reason)
        hint = (
            "Nothing of this import was kept. If the file is sound, raise the limit in the import settings "
            '([limits]); otherwise exclude it, or import with on_fault = "leave_out".'
            if reason is Reason.TOO_MUCH
            else 'Fetch or make the file again, exclude it, or import with on_fault = "leave_out": what '
            "comes before the fault is kept then."
        )
        return self.judge.fault(reason, kind, place, f"{printable(place)}: {text}.", hint)


class Bound:
    """Counts what one file gives, and stops when that is too much for its size."""

    def __init__(self, candidate: Candidate, judge: Judge) -> None:
        self._candidate = candidate
        self._judge = judge
        self._before = judge.left_out.entries
        self._items = 0
        self._bytes = 0

    def end(self) -> None:
        """The file is read through. Raises NotTaken when it gave nothing, and nothing of it was counted."""
        if not self._items and self._judge.left_out.entries == self._before:
            raise NotTaken(Reason.EMPTY, self._candidate.path)

    def count(self, item: Item) -> None:
        """One more item. Raises StreamFault at the limit."""
        limits = self._judge.spec.limits
        self._items += 1
        self._bytes += len(item.data)
        if self._items > limits.items_per_file:
            raise StreamFault(Reason.TOO_MUCH, f"it holds more than {limits.items_per_file} items")
        if self._bytes > FREE_BYTES + limits.ratio * self._candidate.size_bytes:
            raise StreamFault(
                Reason.TOO_MUCH,
                f"its {self._candidate.size_bytes} bytes give more than {self._bytes}: over "
                f"{limits.ratio} times",
            )


RowForm: TypeAlias = Callable[[Intake, Candidate, Stream], Iterator[Item]]
SourceForm: TypeAlias = Callable[[Intake], Generator[Item]]
