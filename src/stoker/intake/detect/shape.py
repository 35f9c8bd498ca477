"""One shape of data: what a candidate looks like, who decides, and what stage one looks for. Pure.

See docs/design/detect.md, "Stages".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stoker.intake.detect.recognise import Found, Span
from stoker.spec.kinds import Kind


@dataclass(frozen=True, slots=True)
class Pattern:
    """One shape of one kind of data, or of fields whose names say the kind."""

    name: str
    kind: Kind | None
    """None: each finding says its own."""
    expression: bytes
    recogniser: Callable[[bytes, int, int], Iterator[Span] | Iterator[Found]]
    trigger: bytes = b""
    """What stage one looks for instead of the expression: shorter, and in every text the expression
    matches."""
