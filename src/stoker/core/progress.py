"""How long steps say how far they are, without knowing who listens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Protocol


class Task(AbstractContextManager["Task"], Protocol):
    """One long step under way; leaving the block ends it."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more units of the total are done."""
        ...

    def describe(self, text: str) -> None:
        """A short word on what happens now, shown beside the bar."""
        ...


class Progress(Protocol):
    """Where long steps announce themselves; `stoker.cli` draws them, tests and ranks stay silent."""

    def task(self, label: str, total: float | None, unit: str) -> Task:
        """Begin a step of `total` units (None: unknown), such as `("import", 31.5e6, "bytes")`."""
        ...


class _SilentTask:
    def __enter__(self) -> _SilentTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, amount: float = 1) -> None:
        return None

    def describe(self, text: str) -> None:
        return None


class _SilentProgress:
    def task(self, label: str, total: float | None, unit: str) -> Task:
        return _SilentTask()


SILENT: Final[Progress] = _SilentProgress()
"""Says nothing."""
