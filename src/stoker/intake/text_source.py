"""The documents of a text preparation: which stay, on which side of the split, on which page."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Final

from stoker.intake.errors import BrokenRecord, TooLittleText
from stoker.intake.packing import heldout_of, tokenizer_sample
from stoker.intake.policy.pages import HOLD, TreatedPage, open_page
from stoker.intake.source_index import SourceFile
from stoker.intake.tokenising import Documents
from stoker.intake.workplace import Workplace

SELECT: Final = "select"


class TextSource:
    """What the tasks of one process read; told from the plan, the source's index and the choice, once."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._plan = work.plan

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Every document of the source, in the order of import."""
        return self._work.source.documents

    @cached_property
    def _dropped(self) -> bytes | None:
        """A byte for each document, 0 where it stays; None where the recipe drops none."""
        if SELECT not in self._plan.phases:
            return None
        return bytes(self._work.get(SELECT, 0).read_all())

    @cached_property
    def _held(self) -> bytes:
        """A byte for each document, 1 where the policy holds it back."""
        return bytes(self._work.get(HOLD, 0).read_all())

    @cached_property
    def _heldout(self) -> frozenset[bytes]:
        kept = [file for number, file in enumerate(self.files) if self._stays(number)]
        places = [(file.path, file.sha256) for file in kept]
        digests = heldout_of(self._plan.source.name, places, self._plan.recipe)
        if not digests:
            raise TooLittleText(
                f"Source {self._plan.source.name} has too few different files for a held-out split.",
                hint="Import at least two files that differ, or let quality steps and policy keep more.",
            )
        return digests

    def _is_kept(self, number: int) -> bool:
        """Whether the quality steps keep a document."""
        return self._dropped is None or self._dropped[number] == 0

    def _stays(self, number: int) -> bool:
        """Whether a document goes into the dataset: it is kept, and no policy holds it back."""
        return self._is_kept(number) and not self._held[number]

    def page(self, page: int) -> range:
        """The numbers of the documents of a page."""
        return self._plan.page(page, len(self.files))

    def page_bytes(self, page: int) -> int:
        """How many bytes the documents of a page have."""
        return sum(self.files[number].size_bytes for number in self.page(page))

    def all_of(self, page: int) -> list[bytes]:
        """Every document of a page, dropped or not."""
        return [bytes(self._work.source.read(self.files[number])) for number in self.page(page)]

    def treatable(self, page: int) -> list[int]:
        """The numbers of the documents of a page that are treated: those that the quality steps keep."""
        return [number for number in self.page(page) if self._is_kept(number)]

    def to_treat(self, page: int) -> list[bytes]:
        """The documents that are treated, as the source holds them."""
        return [bytes(self._work.source.read(self.files[number])) for number in self.treatable(page)]

    def kept_of(self, page: int) -> Documents:
        """The treated documents of a page by split; the last page ends with the source's canary."""
        sides: tuple[list[bytes], list[bytes]] = ([], [])
        source_bytes = [0, 0]
        treated = open_page(self._work, page)
        for place, number in enumerate(self.treatable(page)):
            if self._stays(number):
                file = self.files[number]
                side = int(file.sha256 in self._heldout)
                sides[side].append(treated.text(place))
                source_bytes[side] += file.size_bytes
        canary = self._canary() if page + 1 == self._plan.pages else None
        return Documents(sides[0], sides[1], source_bytes[0], source_bytes[1], canary)

    def _canary(self) -> bytes:
        canary = self._work.source.canary
        if canary is None:
            raise BrokenRecord("The source holds no canary.", hint="Import the source again.")
        return bytes(self._work.source.read(canary))

    def tokenizer_files(self) -> list[SourceFile]:
        """The documents that the tokenizer is trained on. Raises TooLittleText when none is held out."""
        return tokenizer_sample(
            list(self._training()), self._plan.recipe.tokenizer_sample_bytes, self._plan.recipe.seed
        )

    def _training(self) -> Iterator[SourceFile]:
        for number, file in enumerate(self.files):
            if self._stays(number) and file.sha256 not in self._heldout:
                yield file

    def treated(self, files: Iterable[SourceFile]) -> list[bytes]:
        """The treated texts of some documents, in their order."""
        numbers = {file.path: number for number, file in enumerate(self.files)}
        found: list[bytes] = []
        opened: tuple[int, TreatedPage, dict[int, int]] | None = None
        for file in files:
            number = numbers[file.path]
            page = bisect.bisect_right(self._plan.page_starts, number) - 1
            if opened is None or opened[0] != page:
                places = {each: place for place, each in enumerate(self.treatable(page))}
                opened = (page, open_page(self._work, page), places)
            found.append(opened[1].text(opened[2][number]))
        return found
