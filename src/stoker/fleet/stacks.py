"""Where the ranks of an attempt that hung stood, and which of them the others waited for. Pure.

A rank writes its stacks with faulthandler: files, lines and functions, no data. See docs/design/fleet.md,
"Hangs".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MAX_FRAMES: Final = 64

_OUTERMOST: Final = frozenset({"<module>", "_run_module_as_main"})

_FRAME: Final = re.compile(r'  File "([^"\n]{1,400})", line (\d{1,8}) in ([\w<>.]{1,200})')
_COLLECTIVE: Final = re.compile(r"torch/(?:distributed/|autograd/graph\.py)|/_functional_collectives")
"""Files whose functions wait for other ranks; so does the backward pass, in the autograd engine."""


def main_stack(text: str) -> tuple[str, ...]:
    """The main thread's frames out of what faulthandler wrote, innermost first, as `file:line function`.

    It is written last, and is whole when its outermost frame is a program's, or when faulthandler cut it at
    its limit. Empty while it is not.
    """
    part = re.split(r"(?m)^(?:Current thread|Thread) ", text)[-1]
    frames = [match.groups() for match in map(_FRAME.match, part.splitlines()) if match]
    if not frames or not (frames[-1][2] in _OUTERMOST or part.endswith("\n  ...\n")):
        return ()
    return tuple(f"{path}:{line} {function}" for path, line, function in frames[:MAX_FRAMES])


def waits_for_others(stack: tuple[str, ...]) -> bool:
    """Whether a rank with this stack is inside a collective."""
    return any(_COLLECTIVE.search(frame) for frame in stack)


def waited_for(stacks: Mapping[int, tuple[str, ...]], ranks: int) -> int | None:
    """The rank that the others wait for: the only one that is in no collective while all others are in one.

    A rank without a stack (it was stopped, or is deep in a driver) is in none. None where it cannot be told.
    """
    outside = [rank for rank in range(ranks) if not waits_for_others(stacks.get(rank, ()))]
    return outside[0] if len(outside) == 1 and ranks > 1 else None
