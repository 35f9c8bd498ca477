"""What an agent and a rank that was started ahead say to each other at its gate. See docs/design/fleet.md."""

from __future__ import annotations

import signal
from typing import Final

GATE_FD_NAME: Final = "STOKER_GATE_FD"
"""The variable that tells a rank the number of the socket it waits at; absent where it need not wait."""

LOADED: Final = b"l"
"""From the rank: what it needs is in memory, and it waits."""

GO: Final = b"g"
"""To the rank, with its number and a newline behind it: its attempt has begun, and its job file is there. The
end of the socket says that it never will."""


def letting_through(rank: int) -> bytes:
    """What lets a process through as this rank; which one it is may have changed while it waited."""
    return GO + str(rank).encode() + b"\n"


def rank_let_through(said: bytes) -> int | None:
    """The rank that a process is from now on; None when no attempt begins."""
    number = said.removeprefix(GO).strip()
    return int(number) if said.startswith(GO) and number.isdigit() else None


STACK_FD_NAME: Final = "STOKER_STACK_FD"
"""The variable that tells a rank the number of the pipe into which it writes where its threads stand."""

STACK_SIGNAL: Final = signal.SIGUSR2
"""Upon this a rank writes its stacks."""
