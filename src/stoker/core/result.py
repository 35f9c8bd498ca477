"""The envelope around what a command answers, the same for people, scripts and pages."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from stoker.core.canonical import JsonValue
from stoker.core.errors import StokerError


class Result(Protocol):
    """A frozen dataclass that a command returns; `kind` and `version` name its shape for scripts."""

    kind: ClassVar[str]
    version: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def envelope(result: Result) -> str:
    """`{"ok": true, "kind", "version", "data"}` as one line of JSON."""
    body = {"ok": True, "kind": result.kind, "version": result.version, "data": plain(result)}
    return json.dumps(body, ensure_ascii=False, allow_nan=False)


def error_envelope(error: StokerError) -> str:
    """`{"ok": false, "error": {"id", "message", "hint"}}` as one line of JSON."""
    body = {"ok": False, "error": {"id": error.id, "message": error.message, "hint": error.hint}}
    return json.dumps(body, ensure_ascii=False)


def plain(value: Any) -> JsonValue:
    """Dataclasses, enums, paths, bytes and tuples as JSON values; NaN and infinity become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")
