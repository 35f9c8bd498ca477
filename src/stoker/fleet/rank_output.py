"""What a rank prints: where it went wrong is kept, what it was wrong about is not.

A rank holds plaintext and keys, and its libraries may print what they were given: an exception quotes its
argument, a parser the line it stumbled over. So of each line only what names a place in a program is written
to `rank-N.log`, and of the rest how much there was. Errors of ours are told as events, with their messages.
See docs/design/fleet.md, "What ranks print".
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Self

from stoker.core.atomic import naming_full_disk

MAX_LINE_BYTES: Final = 4_096
"""A longer line is withheld, whatever it begins with."""

MAX_LOG_BYTES: Final = 8 << 20
"""A rank's log grows no further; what comes later is counted as withheld."""

_WHOLE: Final = re.compile(
    rb"Traceback \(most recent call last\):"
    rb"|(?:Current thread|Thread) 0x[0-9a-f]{1,16} (?:\[[\w.-]{0,64}\] )?\(most recent call first\):"
    rb"|The above exception was the direct cause of the following exception:"
    rb"|During handling of the above exception, another exception occurred:"
    rb'|\s*File "[\w./<>+@-]{1,300}", line \d{1,8},? in [\w.<>]{1,120}'
    rb"|Fatal Python error: [A-Z][A-Za-z ]{0,60}"
)
"""Lines of tracebacks, of Python's own and of faulthandler's."""

_BEGINNING: Final = re.compile(
    rb"[A-Za-z_][\w.]{0,120}(?:Error|Exception|Warning|Interrupt|Exit|Lost|Refused|Expired)(?=:|$)"
    rb"|[\w./+@-]{1,300}\.py:\d{1,8}: [A-Za-z]{1,60}Warning(?=:)"
    rb"|\[[IWEF]\d{0,8}[\d :.-]{0,40}[\w./+-]{0,200}:\d{1,8}\]"
    rb"|thread '[^']{0,60}' (?:\(\d{1,10}\) )?panicked at [\w./+@-]{1,300}:\d{1,8}:\d{1,8}(?=:|$)"
)
"""How lines begin that then go on with a message: the kind of an error, and where it comes from."""


class OutputSieve:
    """Takes what one rank prints from the pipe `descriptor`, and writes what may be kept to the file `log`.

    Both are its own to close. `whole`: everything is kept.
    """

    def __init__(self, descriptor: int, log: int, *, whole: bool = False) -> None:
        self.descriptor: Final = descriptor
        self._log = log
        self._whole = whole
        self._partial = bytearray()
        self._skipping = False
        self._written = 0
        self._row_lines = self._row_bytes = 0
        self.withheld_bytes = 0
        """How much was not kept, line ends included."""

    @classmethod
    def beside_pipe(cls, path: Path, *, whole: bool) -> tuple[Self, int]:
        """A sieve between a new pipe and the log at `path` (0600), and the end that the rank writes to."""
        with naming_full_disk(path):
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        return cls(reader, log, whole=whole), writer

    def take(self, data: bytes) -> None:
        """The next bytes that the rank has printed."""
        if self._whole:
            self._write(data)
            return
        self._partial += data
        while (end := self._partial.find(b"\n")) >= 0:
            self._line(bytes(self._partial[:end]), 1)
            del self._partial[: end + 1]
        if len(self._partial) > MAX_LINE_BYTES:
            self._skipping = True
            self._withhold(len(self._partial), 0)
            self._partial.clear()

    def close(self) -> None:
        """The rank is gone: what it left of a line counts as one."""
        if self._partial:
            self._line(bytes(self._partial), 0)
        self._end_row()
        os.close(self.descriptor)
        os.close(self._log)

    def _line(self, line: bytes, ended: int) -> None:
        kept, length = b"" if self._skipping else kept_of(line), len(line) + ended
        if kept == line and line:
            self._end_row()
            self._write(line + b"\n")
        elif kept:
            self._end_row()
            self.withheld_bytes += length - len(kept)
            self._write(kept + b" [withheld: %d bytes]\n" % (length - len(kept)))
        else:
            self._withhold(length, 1)
        self._skipping = False

    def _withhold(self, length: int, lines: int) -> None:
        self.withheld_bytes += length
        self._row_bytes += length
        self._row_lines += lines

    def _end_row(self) -> None:
        """Say how much was withheld since the last line that was kept."""
        if self._row_bytes:
            self._write(b"[withheld: %d lines, %d bytes]\n" % (max(1, self._row_lines), self._row_bytes))
        self._row_lines = self._row_bytes = 0

    def _write(self, data: bytes) -> None:
        room = MAX_LOG_BYTES - self._written
        if len(data) > room:
            self.withheld_bytes += len(data)
            return
        self._written += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._log, view) :]
        except OSError:  # a full disk: a log is not worth a run
            self.withheld_bytes += len(view)


def kept_of(line: bytes) -> bytes:
    """What may be written of a line, without its end: all of it, a beginning, or nothing."""
    if len(line) > MAX_LINE_BYTES:
        return b""
    if _WHOLE.fullmatch(line):
        return line
    begins = _BEGINNING.match(line)
    return begins[0] if begins else b""
