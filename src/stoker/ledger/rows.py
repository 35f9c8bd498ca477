"""Records as rows and back, and the digest that ties a row to the audit log.

See docs/design/ledger.md, "Rows and their digests".
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from stoker.core import canonical
from stoker.core.canonical import JsonValue, canonical_json, digest_of
from stoker.core.ids import ReviewId, RunId, VersionId
from stoker.ledger.errors import LedgerRefused
from stoker.ledger.records import (
    AccessTokenRecord,
    CheckpointRecord,
    DatasetRecord,
    DatasetState,
    IdentityRecord,
    ReviewRecord,
    ReviewState,
    ReviewTermsRecord,
    Role,
    RunOutcome,
    RunPartRecord,
    RunRecord,
    SourceRecord,
    TombstoneRecord,
)

Record = (
    IdentityRecord
    | AccessTokenRecord
    | SourceRecord
    | ReviewRecord
    | ReviewTermsRecord
    | DatasetRecord
    | RunRecord
    | RunPartRecord
    | CheckpointRecord
    | TombstoneRecord
)

MAX_JSON_BYTES: Final = 1024 * 1024
MAX_JSON_DEPTH: Final = 100
"""How many mappings and lists may lie in one another; whoever reads a row walks through them."""

_MAX_INTEGER: Final = 2**63 - 1


def to_row(record: Record) -> dict[str, Any]:
    """The columns of `record`. Raises LedgerRefused, naming the field, for a value that would not survive."""
    return {
        field.name: storable(getattr(record, field.name), f"{type(record).__name__}.{field.name}")
        for field in dataclasses.fields(record)
    }


def storable(value: object, place: str) -> Any:
    """`value` as the database holds it. Raises LedgerRefused, naming `place`."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return json_text(cast("Mapping[str, JsonValue]", value), place)
    if isinstance(value, str):
        return checked_text(value, place)
    if isinstance(value, float) and not math.isfinite(value):
        raise LedgerRefused(f"{place} is {value}; expected a finite number.")
    if isinstance(value, int) and not -_MAX_INTEGER <= value <= _MAX_INTEGER:
        raise LedgerRefused(f"{place} does not fit 64 bits.")
    return value


def checked_text(value: str, place: str) -> str:
    """`value` itself. Raises LedgerRefused when it holds a NUL or is no Unicode text."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise LedgerRefused(
            f"{place} holds {value[:80]!a}, which is not Unicode text.",
            hint="Write undecodable bytes as escapes before recording them.",
        ) from error
    if "\x00" in value:
        raise LedgerRefused(f"{place} holds a NUL character.", hint="Leave it out.")
    return value


def json_text(value: Mapping[str, JsonValue], place: str) -> str:
    """The canonical JSON of `value`, which reading gives back unchanged. Raises LedgerRefused."""
    try:
        data = canonical_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerRefused(
            f"{place} holds what JSON cannot carry: {error}.",
            hint="Record texts, whole and finite numbers, lists and mappings only.",
        ) from error
    if len(data) > MAX_JSON_BYTES:
        raise LedgerRefused(
            f"{place} takes {len(data)} bytes; at most {MAX_JSON_BYTES} are kept.",
            hint="Record a digest of it and keep the whole in the store.",
        )
    try:
        json_mapping(data.decode())
    except ValueError as error:
        raise LedgerRefused(
            f"{place} changes when it is written as JSON: {error}.", hint="Use text keys, nested flatly."
        ) from error
    return data.decode()


def json_mapping(text: str) -> dict[str, Any]:
    """The JSON object that a column holds, as `json_text` wrote it. Raises ValueError for anything else."""
    try:
        value = json.loads(text)
        same = canonical_json(value).decode() == text
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"its JSON is a {type(value).__name__}, not an object")
    if not same:
        raise ValueError("its JSON is not in canonical form")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return value
    raise ValueError("its JSON is nested too deep")


def check_types(record: object) -> None:
    """Raise ValueError, naming the field, unless a record that was read holds what its class says.

    A database keeps whatever was written into it: SQLite takes text in a column of numbers.
    """
    cls: Any = type(record)
    for name, allowed in _allowed(cls):
        value = getattr(record, name)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise ValueError(f"{name} is a {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        if isinstance(value, str):
            value.encode()


@functools.cache
def _allowed(cls: Any) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """The types that each field of a record may have; a whole number may stand for a float."""
    hints = typing.get_type_hints(cls, localns=vars(canonical))
    return tuple((field.name, tuple(_plain_types(hints[field.name]))) for field in dataclasses.fields(cls))


def _plain_types(hint: Any) -> list[type]:
    if isinstance(hint, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in _plain_types(part)]
    kind = getattr(hint, "__supertype__", None) or typing.get_origin(hint) or hint
    return [float, int] if kind is float else [kind]


def raw_columns(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """The columns of `table` as the database gives them, without any conversion."""
    return [sa.type_coerce(column, sa.types.NULLTYPE).label(column.name) for column in table.columns]


def key_of(table: sa.Table, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The primary key of a row, as text."""
    return tuple(str(row[column.name]) for column in table.primary_key.columns)


def row_digest(table: sa.Table, row: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of table name and every column; bytes as `{"hex": ...}`.

    Raises ValueError or TypeError when the row holds what the ledger would never have written.
    """
    columns: dict[str, JsonValue] = {}
    for column in table.columns:
        value = row[column.name]
        columns[column.name] = {"hex": value.hex()} if isinstance(value, bytes) else value
    return digest_of({"table": table.name, "row": columns})


def identity_of(row: RowMapping) -> IdentityRecord:
    return IdentityRecord(row["name"], Role(row["role"]), row["public_key"], row["created_s"])


def source_of(row: RowMapping) -> SourceRecord:
    return SourceRecord(
        name=row["name"],
        version=VersionId(row["version"]),
        manifest_root=row["manifest_root"],
        kek=row["kek"],
        files=row["files"],
        content_bytes=row["content_bytes"],
        left_out=json_mapping(row["left_out"]),
        imported_by=row["imported_by"],
        imported_s=row["imported_s"],
    )


def review_of(row: RowMapping) -> ReviewRecord:
    return ReviewRecord(
        id=ReviewId(row["id"]),
        source=row["source"],
        source_version=VersionId(row["source_version"]),
        manifest_root=row["manifest_root"],
        scan_digest=row["scan_digest"],
        policy_digest=row["policy_digest"],
        purpose=row["purpose"],
        requested_by=row["requested_by"],
        requested_s=row["requested_s"],
        expires_s=row["expires_s"],
        request_digest=row["request_digest"],
        state=ReviewState(row["state"]),
        decided_by=row["decided_by"],
        decided_s=row["decided_s"],
        reason=row["reason"],
        decision_signature=row["decision_signature"],
    )


def review_terms_of(row: RowMapping) -> ReviewTermsRecord:
    return ReviewTermsRecord(ReviewId(row["review"]), json_mapping(row["terms"]))


def access_token_of(row: RowMapping) -> AccessTokenRecord:
    return AccessTokenRecord(
        id=row["id"],
        identity=row["identity"],
        digest=row["digest"],
        scopes=json_mapping(row["scopes"]),
        created_by=row["created_by"],
        created_s=row["created_s"],
        expires_s=row["expires_s"],
        revoked_s=row["revoked_s"],
    )


def dataset_of(row: RowMapping) -> DatasetRecord:
    return DatasetRecord(
        name=row["name"],
        version=VersionId(row["version"]),
        root=row["root"],
        kek=row["kek"],
        source=row["source"],
        source_version=VersionId(row["source_version"]),
        source_root=row["source_root"],
        review=ReviewId(row["review"]),
        recipe_digest=row["recipe_digest"],
        recipe=json_mapping(row["recipe"]),
        figures=json_mapping(row["figures"]),
        prepared_by=row["prepared_by"],
        prepared_s=row["prepared_s"],
        expires_s=row["expires_s"],
        state=DatasetState(row["state"]),
    )


def run_of(row: RowMapping) -> RunRecord:
    return RunRecord(
        id=RunId(row["id"]),
        name=row["name"],
        dataset=row["dataset"],
        dataset_root=row["dataset_root"],
        review=ReviewId(row["review"]),
        spec=json_mapping(row["spec"]),
        spec_digest=row["spec_digest"],
        kek=row["kek"],
        started_by=row["started_by"],
        started_s=row["started_s"],
        ended_s=row["ended_s"],
        outcome=RunOutcome(row["outcome"]),
    )


def run_part_of(row: RowMapping) -> RunPartRecord:
    return RunPartRecord(RunId(row["run"]), row["dataset_root"])


def checkpoint_of(row: RowMapping) -> CheckpointRecord:
    return CheckpointRecord(
        run=RunId(row["run"]),
        sequence=row["sequence"],
        step=row["step"],
        attempt=row["attempt"],
        digest=row["digest"],
        committed_s=row["committed_s"],
    )


def tombstone_of(row: RowMapping) -> TombstoneRecord:
    return TombstoneRecord(row["kek"], row["requested_by"], row["approved_by"], row["destroyed_s"])
