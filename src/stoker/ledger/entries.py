"""The leaves of the audit log: what is recorded of an act, its bytes, and its row. Pure.

See docs/design/ledger.md, "Leaves".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stoker.core.canonical import JsonValue, canonical_json
from stoker.ledger import merkle
from stoker.ledger.errors import LedgerRefused
from stoker.ledger.records import AuditEntry, RowDigest
from stoker.ledger.rows import checked_text, json_text


class DamagedEntry(ValueError):
    """A stored entry that the ledger would never have written; the message says why."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An act before it has a place in the log. `detail` is canonical JSON."""

    actor: str
    action: str
    subject: str
    detail: str


def draft_of(actor: str, action: str, subject: str, detail: Mapping[str, JsonValue]) -> Draft:
    """A draft whose every value can be kept exactly. Raises LedgerRefused, naming the field."""
    if not actor or not action:
        raise LedgerRefused("An act needs an actor and an action.", hint="Say who acts, and what is done.")
    return Draft(
        checked_text(actor, "actor"),
        checked_text(action, "action"),
        checked_text(subject, "subject"),
        json_text(detail, "detail"),
    )


def leaf_bytes(
    index: int,
    time_s: float,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, JsonValue],
    rows: Iterable[RowDigest],
) -> bytes:
    """The bytes whose leaf hash stands in the tree."""
    return canonical_json(
        {
            "action": action,
            "actor": actor,
            "detail": detail,
            "index": index,
            "rows": _plain_rows(rows),
            "subject": subject,
            "time": time_s,
        }
    )


def entry_row(index: int, time_s: float, draft: Draft, rows: Iterable[RowDigest]) -> dict[str, Any]:
    """The columns of `audit_entry` for a draft that has found its place."""
    return {
        "idx": index,
        "time_s": time_s,
        "actor": draft.actor,
        "action": draft.action,
        "subject": draft.subject,
        "detail": draft.detail,
        "row_digests": canonical_json(_plain_rows(rows)).decode(),
    }


def entry_of_row(row: Mapping[str, Any]) -> AuditEntry:
    """The entry that a stored row holds, its leaf hash computed from the content. Raises DamagedEntry."""
    index, time_s = row["idx"], row["time_s"]
    if type(index) is not int or type(time_s) is not float or not math.isfinite(time_s):
        raise DamagedEntry("its index or time is no number")
    texts = [row[name] for name in ("actor", "action", "subject", "detail", "row_digests")]
    if not all(isinstance(text, str) for text in texts):
        raise DamagedEntry("a column is no text")
    actor, action, subject, detail_text, rows_text = texts
    try:
        detail = json.loads(detail_text)
        rows = tuple(_row_digest(item) for item in json.loads(rows_text))
        if not isinstance(detail, dict):
            raise DamagedEntry("its detail is no JSON object")
        if canonical_json(detail).decode() != detail_text:
            raise DamagedEntry("its detail is not in canonical form")
        if canonical_json(_plain_rows(rows)).decode() != rows_text:
            raise DamagedEntry("its row digests are not in canonical form")
        leaf = leaf_bytes(index, time_s, actor, action, subject, detail, rows)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise DamagedEntry(str(error)) from error
    return AuditEntry(index, time_s, actor, action, subject, detail, merkle.leaf_hash(leaf), rows)


def rehashed(entry: AuditEntry, index: int) -> bytes:
    """The leaf hash that the content of `entry` would have at another index."""
    return merkle.leaf_hash(
        leaf_bytes(index, entry.time_s, entry.actor, entry.action, entry.subject, entry.detail, entry.rows)
    )


def _plain_rows(rows: Iterable[RowDigest]) -> list[JsonValue]:
    return [
        {"before": row.before, "digest": row.digest, "key": list(row.key), "table": row.table} for row in rows
    ]


def _row_digest(item: Mapping[str, Any]) -> RowDigest:
    before = item["before"]
    return RowDigest(
        table=str(item["table"]),
        key=tuple(str(part) for part in item["key"]),
        digest=str(item["digest"]),
        before=None if before is None else str(before),
    )
