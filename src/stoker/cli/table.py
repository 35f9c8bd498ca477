"""Aligned columns and human units for text on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.cli.main import printable
from stoker.core.clock import iso_utc


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, indent: str = "") -> str:
    """Columns as wide as their widest cell; numbers to the right; control characters escaped."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return (indent + "  ".join(parts)).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def pairs(rows: Sequence[tuple[str, object]], *, indent: str = "") -> str:
    """`label  value` lines with the values aligned."""
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(
        f"{indent}{label.ljust(width)}  {printable(str(value))}".rstrip() for label, value in rows
    )


def human_bytes(count: float) -> str:
    """`31.5 MB`, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(count) < 1000 or unit == "PB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def human_seconds(duration_s: float) -> str:
    """`0.42 s`, `75.1 s`, `12 min 5 s`."""
    if duration_s < 10:
        return f"{duration_s:.2f} s"
    if duration_s < 120:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds} s"


def day(time_s: float | None) -> str:
    """A time for people, or a dash."""
    return "-" if time_s is None else iso_utc(time_s)


def short(digest: str) -> str:
    """The first twelve digits of a digest."""
    return digest[:12]
