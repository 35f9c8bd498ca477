"""Progress bars on a terminal's stderr, and silence elsewhere. rich is imported at first use."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from stoker.core.progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


def progress_for_terminal() -> Progress:
    """Bars when a person watches, silence otherwise."""
    return _TerminalProgress() if sys.stderr.isatty() else SILENT


class _TerminalProgress:
    def task(self, label: str, total: float | None, unit: str) -> Task:
        return _TerminalTask(label, total, unit)


class _TerminalTask:
    """One bar, alive between enter and exit."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._bars: Bars | None = None
        self._id: TaskID | None = None

    def __enter__(self) -> _TerminalTask:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        count = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
        self._bars = Bars(
            TextColumn("   {task.description}"),
            BarColumn(),
            count,
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[word]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars.start()
        self._id = self._bars.add_task(self._label, total=self._total, word="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def advance(self, amount: float = 1) -> None:
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, amount)

    def describe(self, text: str) -> None:
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, word=text)
