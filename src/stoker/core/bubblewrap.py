"""Bubblewrap, where users may make no network namespace themselves and an administrator has installed it.

See docs/design/fleet.md, "Isolation", and docs/decisions/0711-a-namespace-or-bubblewrap.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Final

_PROGRAM: Final = "bwrap"
_TRUE: Final = "/bin/true"


def installed() -> str | None:
    """The program, if it is here."""
    return shutil.which(_PROGRAM)


def inside(program: str, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in a network of its own, with everything else as it is."""
    return [program, "--unshare-net", "--dev-bind", "/", "/", "--die-with-parent", "--", *command]


def works(program: str) -> bool:
    """Whether it can isolate here; tried with a program that does nothing."""
    child = os.posix_spawn(
        program,
        inside(program, [_TRUE]),
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_RDWR, 0) for each in (1, 2)],
    )
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def usable() -> tuple[str | None, str]:
    """The program if it is here and works, and why not otherwise."""
    program = installed()
    if program is None:
        return None, "bubblewrap is not installed"
    return (program, "") if works(program) else (None, "bubblewrap cannot isolate here")
