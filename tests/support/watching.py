"""A progress display that says nothing, for tests that look on, or act, while a long step is under way."""

from __future__ import annotations

from typing import Self

from stoker.core.progress import Task


class Watching:
    """Both the display and its one task; a subclass does something in `describe` or `advance`."""

    def task(self, label: str, total: float | None, unit: str) -> Task:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, amount: float = 1) -> None:
        return None

    def describe(self, text: str) -> None:
        return None
