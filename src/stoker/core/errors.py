"""The one base of all errors a person may see: an id, a message, a hint, an exit code.

Each room raises its own subclasses. Exit codes are unique per class and given by the room's range, so that
a script can tell errors apart; `docs/design/errors.md` is generated from this registry and tested against it.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

EXIT_DONE: Final = 0
EXIT_FINDING: Final = 1
EXIT_USAGE: Final = 2
EXIT_CANCELLED: Final = 3

ROOM_EXIT_CODES: Final[dict[str, tuple[int, ...]]] = {
    "core": (*range(10, 20),),
    "ledger": (*range(20, 30), 254, 255),
    "keys": (*range(30, 50), *range(240, 250)),
    "store": (*range(50, 70), *range(210, 220)),
    "intake": (*range(70, 90), *range(220, 240), *range(250, 254)),
    "feed": (*range(90, 100), *range(200, 210)),
    "spec": (*range(100, 110),),
    "train": (*range(110, 130), *range(190, 198)),
    "fleet": (*range(130, 150),),
    "plan": (*range(150, 160),),
    "simulate": (*range(160, 170),),
    "cli": (*range(170, 180),),
    "web": (*range(180, 190),),
    "promises": (*range(198, 200),),
}
"""Exit codes reserved for the error classes of each room."""

ERROR_CLASSES: Final[dict[int, type[StokerError]]] = {}
"""Every concrete error class by its exit code, filled as rooms are imported."""


class StokerError(Exception):
    """An error that names the place, says what was expected, and how to mend it.

    A concrete subclass sets `exit_code` inside its room's range; its `id` is made from the class name
    (`WrongPassphrase` becomes `wrong-passphrase`). The message is one or two full sentences and never holds
    secret or personal data; the hint says what to do next.
    """

    id: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 0

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.id = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        code = cls.__dict__.get("exit_code")
        if code is None:
            raise TypeError(f"{cls.__name__} must set its own exit_code")
        room = cls.__module__.split(".")[1] if cls.__module__.startswith("stoker.") else None
        if room is not None:
            if code not in ROOM_EXIT_CODES[room]:
                raise TypeError(f"{cls.__name__}: exit code {code} is outside {room}'s codes")
            holder = ERROR_CLASSES.setdefault(code, cls)
            if holder.__qualname__ != cls.__qualname__:
                raise TypeError(f"{cls.__name__} and {holder.__name__} both claim exit code {code}")

    def __str__(self) -> str:
        return self.message


class BadName(StokerError):
    """A name that is a path, empty, too long, or holds characters that names may not hold."""

    exit_code = 10


class ConfigError(StokerError):
    """One or more mistakes in configuration; the message lists all of them."""

    exit_code = 11


class DiskFull(StokerError):
    """The file system ran out of space or inodes; what was half written has been removed."""

    exit_code = 12


class BadHome(StokerError):
    """STOKER_HOME cannot be used: not a folder, not writable, or of a newer version."""

    exit_code = 13


class BadSignature(StokerError):
    """A signature does not fit its message and public key."""

    exit_code = 14


class BadEvent(StokerError):
    """An event that does not follow its kind's schema."""

    exit_code = 15


class Busy(StokerError):
    """Another process holds the lock on the same thing."""

    exit_code = 16


class MissingExtra(StokerError):
    """The command needs a package that the bare installation leaves out."""

    exit_code = 17
