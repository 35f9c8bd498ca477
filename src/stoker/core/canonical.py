"""One byte string for one value: canonical JSON, and digests over it.

Everything that is signed, compared or named by a digest is first turned into these bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"


def canonical_json(value: JsonValue) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, no NaN or infinity: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: JsonValue) -> str:
    """The SHA-256 of `canonical_json(value)`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
