"""Names that people give and ids that we make.

A name (`source`, `dataset`, identity) never is a path; an id sorts by the time it was made.
"""

from __future__ import annotations

import re
import secrets
from typing import NewType

from stoker.core.clock import Clock
from stoker.core.errors import BadName

RunId = NewType("RunId", str)
"""`r-` and 20 hexadecimal digits: 10 of the millisecond it was made, 10 random."""

VersionId = NewType("VersionId", str)
"""32 hexadecimal digits naming one import or preparation before its manifest root can be known."""

ReviewId = NewType("ReviewId", str)
"""`rev-` and 20 hexadecimal digits."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


def check_name(name: str, what: str) -> str:
    """Return `name` when it is 1 to 63 of `a-z 0-9 . _ -`, beginning and ending with a letter or digit.

    Raises BadName, which says what `what` (say "dataset") was expected to look like.
    """
    if _NAME.fullmatch(name) and ".." not in name:
        return name
    shown = ascii(name[:80])
    hint = f"A {what} name is 1 to 63 of a-z, 0-9, '.', '_' and '-', such as 'own-text'; it is not a path."
    raise BadName(f"{shown} is no {what} name.", hint=hint)


def new_run_id(clock: Clock) -> RunId:
    """A fresh id that sorts after those made in an earlier millisecond."""
    return RunId("r-" + _stamped(clock))


def new_review_id(clock: Clock) -> ReviewId:
    """A fresh id that sorts after those made in an earlier millisecond."""
    return ReviewId("rev-" + _stamped(clock))


def new_version_id() -> VersionId:
    """128 random bits; unique without coordination."""
    return VersionId(secrets.token_hex(16))


def _stamped(clock: Clock) -> str:
    millisecond = int(clock.now_s() * 1000) & 0xFF_FFFF_FFFF
    return f"{millisecond:010x}{secrets.token_hex(5)}"
