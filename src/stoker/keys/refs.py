"""How a KEK is named, and what the keys under it are for. See docs/design/keys.md."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from stoker.keys.errors import BadKekRef

MAX_REF_BYTES: Final = 200
MAX_EPOCH: Final = 2**32 - 1

_SCOPE = re.compile(r"[a-z]{1,16}(?:/[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?){1,3}")
_EPOCH = re.compile(r"[1-9][0-9]{0,9}")


class Purpose(enum.StrEnum):
    """What the keys under a KEK protect; part of every wrap context."""

    SOURCE = "source"
    DATASET = "dataset"
    CHECKPOINT = "checkpoint"
    REPORT = "report"


@dataclass(frozen=True, slots=True, order=True)
class KekRef:
    """One KEK: a scope, such as `dataset/own-text/VERSION` or `run/ID`, and its epoch, counted from 1.

    `str(ref)` is `SCOPE#EPOCH` in ASCII, at most 200 bytes, and the only text that names this KEK.
    """

    scope: str
    epoch: int

    def __post_init__(self) -> None:
        """Raises BadKekRef unless scope and epoch follow the grammar of docs/design/keys.md."""
        if _SCOPE.fullmatch(self.scope) is None or ".." in self.scope:
            raise _bad(self.scope)
        if not 1 <= self.epoch <= MAX_EPOCH or len(str(self)) > MAX_REF_BYTES:
            raise _bad(str(self))

    def __str__(self) -> str:
        return f"{self.scope}#{self.epoch}"

    @classmethod
    def parse(cls, text: str) -> KekRef:
        """The KEK that `text` names. Raises BadKekRef; `str(KekRef.parse(text)) == text` always holds."""
        scope, _, epoch = text.partition("#")
        if len(text) > MAX_REF_BYTES or _EPOCH.fullmatch(epoch) is None:
            raise _bad(text)
        return cls(scope, int(epoch))


def _bad(text: str) -> BadKekRef:
    return BadKekRef(
        f"{text[:MAX_REF_BYTES]!a} does not name a KEK.",
        hint="A KEK is named SCOPE#EPOCH, such as dataset/own-text/0123abcd#1; `stoker key list` shows them.",
    )
