"""The rows of the catalogue, as the rest of the house sees them. See docs/design/ledger.md."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from stoker.core.canonical import JsonValue
from stoker.core.ids import ReviewId, RunId, VersionId


class Role(enum.StrEnum):
    """What an identity may do."""

    RESEARCHER = "researcher"
    REVIEWER = "reviewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class IdentityRecord:
    """A person or service that acts. `public_key` is raw Ed25519 (32 bytes)."""

    name: str
    role: Role
    public_key: bytes
    created_s: float


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One import of a source into quarantine. `manifest_root` names its sealed bytes, 64 hex digits."""

    name: str
    version: VersionId
    manifest_root: str
    kek: str
    files: int
    content_bytes: int
    left_out: Mapping[str, int]
    imported_by: str
    imported_s: float


class ReviewState(enum.StrEnum):
    """Where a review stands; expiry is judged by the clock, not stored."""

    REQUESTED = "requested"
    SCANNED = "scanned"
    APPROVED = "approved"
    DENIED = "denied"
    CHANGES_ASKED = "changes_asked"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class ReviewRecord:
    """A request to use one source version for a purpose, and what was decided.

    `request_digest` covers source, manifest root, scan digest, policy digest, purpose, requester and expiry;
    `decision_signature` is the decider's Ed25519 signature over the canonical decision.
    """

    id: ReviewId
    source: str
    source_version: VersionId
    manifest_root: str
    scan_digest: str
    policy_digest: str
    purpose: str
    requested_by: str
    requested_s: float
    expires_s: float
    request_digest: str
    state: ReviewState
    decided_by: str | None
    decided_s: float | None
    reason: str | None
    decision_signature: bytes | None


@dataclass(frozen=True, slots=True)
class ReviewTermsRecord:
    """A request beside its own fields: `terms`, `policy`, `answers`; see `intake.review_request`."""

    review: ReviewId
    terms: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class AccessTokenRecord:
    """A token by which `identity` proves itself. `digest` is SHA-256 of its secret, which nobody keeps.

    `scopes` is `{"scopes": [...]}`: the names of what it may be used for.
    """

    id: str
    identity: str
    digest: bytes
    scopes: Mapping[str, JsonValue]
    created_by: str
    created_s: float
    expires_s: float
    revoked_s: float | None


class DatasetState(enum.StrEnum):
    """A dataset is live until its key is destroyed or its objects are removed; the clock judges expiry.

    `collected`: its time was over or its key gone, and its objects were then removed from the store (or are
    being removed). The record stays for good, so that lineage can be followed through it.
    """

    LIVE = "live"
    DESTROYED = "destroyed"
    COLLECTED = "collected"


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """One prepared, immutable version of a dataset. `root` is its manifest root, 64 hex digits."""

    name: str
    version: VersionId
    root: str
    kek: str
    source: str
    source_version: VersionId
    source_root: str
    review: ReviewId
    recipe_digest: str
    recipe: Mapping[str, JsonValue]
    figures: Mapping[str, JsonValue]
    prepared_by: str
    prepared_s: float
    expires_s: float
    state: DatasetState


class RunOutcome(enum.StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One training job. `spec` is the merged run file as saved in the run's folder."""

    id: RunId
    name: str
    dataset: str
    dataset_root: str
    review: ReviewId
    spec: Mapping[str, JsonValue]
    spec_digest: str
    kek: str
    started_by: str
    started_s: float
    ended_s: float | None
    outcome: RunOutcome


@dataclass(frozen=True, slots=True)
class RunPartRecord:
    """A further dataset that a run reads: a part of its mixture beside the run's own `dataset_root`."""

    run: RunId
    dataset_root: str


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One committed checkpoint as the supervisor saw it, so that a rolled-back store is noticed."""

    run: RunId
    sequence: int
    step: int
    attempt: int
    digest: str
    committed_s: float


@dataclass(frozen=True, slots=True)
class TombstoneRecord:
    """A key that is gone for good; it outlives a restored key store."""

    kek: str
    requested_by: str
    approved_by: str
    destroyed_s: float


@dataclass(frozen=True, slots=True)
class RowDigest:
    """A catalogue row as one act left it: the table, the row's key, and the digest of the whole row.

    `before` is the digest that the act found there; None for a new row.
    """

    table: str
    key: tuple[str, ...]
    digest: str
    before: str | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One leaf of the audit log, in order of `index`. `rows` are the catalogue rows that the act wrote."""

    index: int
    time_s: float
    actor: str
    action: str
    subject: str
    detail: Mapping[str, JsonValue]
    leaf_hash: bytes
    rows: tuple[RowDigest, ...] = ()
