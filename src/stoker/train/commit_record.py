"""The two records of a run's commit log, as values and as JSON. See docs/design/train.md.

A fence says "attempt N has taken over"; a commit says "these parts are a checkpoint". The decoder knows every
field and refuses the rest, so a record that was made by a newer Stoker is named, not half understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.result import plain
from stoker.train.checkpoint_errors import BadCommitLog

FORMAT: Final = 2
OLD_FORMAT: Final = 1
"""Its parts had a SHA-256 of the sealed object too, which nothing read; otherwise the same."""
MAX_RECORD_BYTES: Final = 256 * 1024 * 1024
MAX_SEQUENCE: Final = 99_999_999
NO_RECORD: Final = "0" * 64
"""What the first record names as the digest of the one before it."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class Part:
    """One sealed object of a checkpoint: the digest of its header, and its length sealed and open.

    The header binds key and salt, and with them the tags of all chunks bind every byte.
    """

    key: str
    header_digest: str
    object_bytes: int
    plaintext_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """An earlier checkpoint whose parts are still there when a newer one is committed."""

    sequence: int
    step: int
    prefix: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Attempt `attempt` begins: from here on only records with its `token` count.

    `previous` is the SHA-256 of the sealed record before it; `resume` is the sequence of the checkpoint that
    the attempt continues from, and every checkpoint after that one is abandoned.
    """

    run: str
    sequence: int
    previous: str
    attempt: int
    token: str
    resume: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A checkpoint: `parts` under `prefix`, all sealed with `version`, and all that is not a tensor."""

    run: str
    sequence: int
    previous: str
    attempt: int
    token: str
    step: int
    prefix: str
    version: str
    parts: tuple[Part, ...]
    kept: tuple[Kept, ...]
    metadata: Mapping[str, JsonValue]
    extra: Mapping[str, JsonValue]


Record: TypeAlias = Fence | Commit


def encode_record(record: Record) -> bytes:
    """The record as canonical JSON. Raises BadCommitLog when it is larger than a reader accepts."""
    kind = "fence" if isinstance(record, Fence) else "checkpoint"
    body = plain(record)
    assert isinstance(body, Mapping)
    data = canonical_json({"format": FORMAT, "kind": kind, **body})
    if len(data) > MAX_RECORD_BYTES:
        raise BadCommitLog(
            f"The commit record of step {getattr(record, 'step', '-')} takes {len(data)} bytes; "
            f"at most {MAX_RECORD_BYTES} are allowed."
        )
    return data


def decode_record(data: bytes | bytearray | memoryview, place: str) -> Record:
    """The record in `data`. Raises BadCommitLog, naming `place`, on anything else."""
    body = _object(strict_json(bytes(data), place), place)
    reader = _Fields(body, place)
    written = reader.integer("format", 1 << 16)
    if written not in (FORMAT, OLD_FORMAT):
        raise BadCommitLog(
            f"{place} has format {body['format']!r}; this Stoker reads {OLD_FORMAT} and {FORMAT}.",
            hint="Use the Stoker that wrote the run.",
        )
    kind = reader.text("kind")
    run, sequence = reader.text("run"), reader.integer("sequence", MAX_SEQUENCE)
    previous, attempt = reader.matching("previous", _DIGEST), reader.integer("attempt")
    token = reader.matching("token", _TOKEN)
    record: Record
    if kind == "fence":
        resume = None if reader.take("resume") is None else reader.integer("resume", MAX_SEQUENCE)
        record = Fence(run, sequence, previous, attempt, token, resume)
    elif kind == "checkpoint":
        record = Commit(
            run,
            sequence,
            previous,
            attempt,
            token,
            step=reader.integer("step"),
            prefix=reader.matching("prefix", _KEY),
            version=reader.matching("version", _TOKEN),
            parts=tuple(_part(item, place, written) for item in reader.array("parts")),
            kept=tuple(_kept(item, place) for item in reader.array("kept")),
            metadata=_object(reader.take("metadata"), place),
            extra=_object(reader.take("extra"), place),
        )
    else:
        raise BadCommitLog(f"{place}: a record of unknown kind {kind[:40]!a}.")
    reader.finish()
    return record


def strict_json(data: bytes, place: str) -> Any:
    """JSON without duplicate keys, NaN or infinity. Raises BadCommitLog, naming `place`."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadCommitLog(f"{place} is not JSON as Stoker writes it: {error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands there twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadCommitLog(f"{place}: expected a JSON object, found {ascii(value)[:40]}.")
    return value


def _part(value: Any, place: str, written: int) -> Part:
    reader = _Fields(_object(value, place), place)
    if written == OLD_FORMAT:
        reader.matching("digest", _DIGEST)
    part = Part(
        reader.matching("key", _KEY),
        reader.matching("header_digest", _DIGEST),
        reader.integer("object_bytes"),
        reader.integer("plaintext_bytes"),
    )
    reader.finish()
    return part


def _kept(value: Any, place: str) -> Kept:
    reader = _Fields(_object(value, place), place)
    kept = Kept(
        reader.integer("sequence", MAX_SEQUENCE), reader.integer("step"), reader.matching("prefix", _KEY)
    )
    reader.finish()
    return kept


class _Fields:
    """Takes the fields of one JSON object, each of the type it must have, until none is left."""

    def __init__(self, body: dict[str, Any], place: str) -> None:
        self._body = body
        self._place = place
        self._taken: set[str] = set()

    def take(self, name: str) -> Any:
        if name not in self._body:
            raise BadCommitLog(f"{self._place}: the field {name!r} is missing.")
        self._taken.add(name)
        return self._body[name]

    def integer(self, name: str, most: int = (1 << 63) - 1) -> int:
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise BadCommitLog(
                f"{self._place}: {name} is {ascii(value)[:40]}, expected a number of 0 to {most}."
            )
        return value

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise BadCommitLog(f"{self._place}: {name} is {ascii(value)[:40]}, expected text.")
        return value

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise BadCommitLog(f"{self._place}: {name} is {ascii(value)[:80]}, which is not of its form.")
        return value

    def array(self, name: str) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list):
            raise BadCommitLog(f"{self._place}: {name} is {ascii(value)[:40]}, expected a list.")
        return value

    def finish(self) -> None:
        left = sorted(set(self._body) - self._taken)
        if left:
            raise BadCommitLog(f"{self._place}: unknown field {left[0][:40]!a}.")
