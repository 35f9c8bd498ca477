"""Records and ledgers for tests: whole, small, each with a name of its own."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stoker.core.clock import ManualClock
from stoker.core.ids import ReviewId, RunId, VersionId
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import (
    CheckpointRecord,
    DatasetRecord,
    DatasetState,
    IdentityRecord,
    ReviewRecord,
    ReviewState,
    Role,
    RunOutcome,
    RunRecord,
    SourceRecord,
    TombstoneRecord,
)

NOW_S = 1_700_000_000.0


def hex64(text: str) -> str:
    """A digest-like value, different for each text."""
    return hashlib.sha256(text.encode()).hexdigest()


def open_ledger(folder: Path, clock: ManualClock | None = None) -> Ledger:
    """The ledger in `folder`, made when absent."""
    return Ledger.open(f"sqlite:///{folder}/ledger.db", folder / "ledger.key", clock or ManualClock(NOW_S))


def identity_record(name: str = "alice", role: Role = Role.RESEARCHER) -> IdentityRecord:
    return IdentityRecord(name, role, hashlib.sha256(ascii(name).encode()).digest(), NOW_S)


def source_record(name: str = "own-text", version: str = "v1", **changes: Any) -> SourceRecord:
    values: dict[str, Any] = {
        "name": name,
        "version": VersionId(version),
        "manifest_root": hex64(f"{name}/{version}"),
        "kek": f"source/{name}/{version}#1",
        "files": 12,
        "content_bytes": 34_567,
        "left_out": {"not_text": 2},
        "imported_by": "alice",
        "imported_s": NOW_S,
    }
    return SourceRecord(**(values | changes))


def review_record(id: str = "rev-1", **changes: Any) -> ReviewRecord:
    values: dict[str, Any] = {
        "id": ReviewId(id),
        "source": "own-text",
        "source_version": VersionId("v1"),
        "manifest_root": hex64("own-text/v1"),
        "scan_digest": hex64("scan"),
        "policy_digest": hex64("policy"),
        "purpose": "research",
        "requested_by": "alice",
        "requested_s": NOW_S,
        "expires_s": NOW_S + 86_400,
        "request_digest": hex64("request"),
        "state": ReviewState.REQUESTED,
        "decided_by": None,
        "decided_s": None,
        "reason": None,
        "decision_signature": None,
    }
    return ReviewRecord(**(values | changes))


def approved(id: str = "rev-1") -> ReviewRecord:
    return review_record(
        id,
        state=ReviewState.APPROVED,
        decided_by="bob",
        decided_s=NOW_S + 5,
        reason="seen",
        decision_signature=b"\x01" * 64,
    )


def dataset_record(name: str = "own-text", version: str = "d1", **changes: Any) -> DatasetRecord:
    values: dict[str, Any] = {
        "name": name,
        "version": VersionId(version),
        "root": hex64(f"dataset {name}/{version}"),
        "kek": f"dataset/{name}/{version}#1",
        "source": "own-text",
        "source_version": VersionId("v1"),
        "source_root": hex64("own-text/v1"),
        "review": ReviewId("rev-1"),
        "recipe_digest": hex64("recipe"),
        "recipe": {"vocabulary": 1024, "heldout_fraction": 0.03},
        "figures": {"files": 12, "tokens": {"train": 1000, "heldout": 30}},
        "prepared_by": "alice",
        "prepared_s": NOW_S + 10,
        "expires_s": NOW_S + 86_400,
        "state": DatasetState.LIVE,
    }
    return DatasetRecord(**(values | changes))


def run_record(id: str = "r-1", **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "id": RunId(id),
        "name": "first",
        "dataset": "own-text",
        "dataset_root": dataset_record().root,
        "review": ReviewId("rev-1"),
        "spec": {"train": {"steps": 600, "learning_rate": 0.003}},
        "spec_digest": hex64("spec"),
        "kek": "run/r-1#1",
        "started_by": "alice",
        "started_s": NOW_S + 20,
        "ended_s": None,
        "outcome": RunOutcome.RUNNING,
    }
    return RunRecord(**(values | changes))


def checkpoint_record(run: str = "r-1", sequence: int = 1) -> CheckpointRecord:
    return CheckpointRecord(RunId(run), sequence, sequence * 10, 1, hex64(f"{run}/{sequence}"), NOW_S + 30)


def tombstone_record(kek: str = "dataset/own-text/d1#1") -> TombstoneRecord:
    return TombstoneRecord(kek, "alice", "bob", NOW_S + 40)


def note_act(ledger: Ledger, subject: str, detail: Mapping[str, Any] | None = None) -> None:
    """An act that only leaves an entry."""
    with ledger.act(actor="alice", action="note", subject=subject, detail=detail or {}):
        pass


def fill(ledger: Ledger) -> None:
    """One record of every table, each by an act of its own: entries 0 to 7."""
    writes = (
        ("identity.add", lambda catalogue: catalogue.add_identity(identity_record())),
        ("import", lambda catalogue: catalogue.add_source(source_record())),
        ("review.request", lambda catalogue: catalogue.put_review(review_record())),
        ("review.approve", lambda catalogue: catalogue.put_review(approved())),
        ("prepare", lambda catalogue: catalogue.add_dataset(dataset_record())),
        ("train", lambda catalogue: catalogue.add_run(run_record())),
        ("checkpoint", lambda catalogue: catalogue.add_checkpoint(checkpoint_record())),
        ("key.destroy", lambda catalogue: catalogue.add_tombstone(tombstone_record())),
    )
    for number, (action, write) in enumerate(writes):
        with ledger.act(actor="alice", action=action, subject=f"subject-{number}", detail={}) as catalogue:
            write(catalogue)


def tamper(folder: Path, *statements: str | tuple[str, tuple[Any, ...]]) -> None:
    """Change the database file behind the ledger's back, as someone with the file but without the key."""
    connection = sqlite3.connect(folder / "ledger.db")
    try:
        for statement in statements:
            sql, values = (statement, ()) if isinstance(statement, str) else statement
            connection.execute(sql, values)
        connection.commit()
    finally:
        connection.close()
