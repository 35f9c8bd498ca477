"""The tables of the ledger, in the one dialect that SQLite and PostgreSQL share.

Every catalogue row holds `entry`, the index of the audit entry that made it, and `place`, its number within
that act: they give the order and tie the row to the log. The migrations in `stoker.ledger.migrations` build
exactly these tables (tested). See docs/design/ledger.md, "Tables".
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = "0003"

metadata: Final = MetaData()


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _seconds(name: str, *, null: bool = False) -> Column[float]:
    return Column(name, Double, nullable=null)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _bytes(name: str, *, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null)


def _origin_columns() -> tuple[Column[int], Column[int]]:
    return _count("entry"), _count("place")


schema_version: Final = Table(
    "alembic_version", MetaData(), Column("version_num", String(32), nullable=False)
)

ledger_meta: Final = Table(
    "ledger_meta",
    metadata,
    Column("id", Integer, nullable=False, autoincrement=False),
    _bytes("public_key"),
    _seconds("created_s"),
    PrimaryKeyConstraint("id", name="pk_ledger_meta"),
)

audit_entry: Final = Table(
    "audit_entry",
    metadata,
    Column("idx", BigInteger, nullable=False, autoincrement=False),
    _seconds("time_s"),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _text("detail"),
    _text("row_digests"),
    PrimaryKeyConstraint("idx", name="pk_audit_entry"),
    Index("ix_audit_entry_action", "action", "subject"),
)

audit_node: Final = Table(
    "audit_node",
    metadata,
    Column("level", Integer, nullable=False, autoincrement=False),
    Column("idx", BigInteger, nullable=False, autoincrement=False),
    _bytes("hash"),
    PrimaryKeyConstraint("level", "idx", name="pk_audit_node"),
)

audit_checkpoint: Final = Table(
    "audit_checkpoint",
    metadata,
    Column("size", BigInteger, nullable=False, autoincrement=False),
    _bytes("root"),
    _text("note"),
    PrimaryKeyConstraint("size", name="pk_audit_checkpoint"),
)

identity: Final = Table(
    "identity",
    metadata,
    _text("name"),
    _text("role"),
    _bytes("public_key"),
    _seconds("created_s"),
    *_origin_columns(),
    PrimaryKeyConstraint("name", name="pk_identity"),
)

source: Final = Table(
    "source",
    metadata,
    _text("name"),
    _text("version"),
    _text("manifest_root"),
    _text("kek"),
    _count("files"),
    _count("content_bytes"),
    _text("left_out"),
    _text("imported_by"),
    _seconds("imported_s"),
    *_origin_columns(),
    PrimaryKeyConstraint("name", "version", name="pk_source"),
)

review: Final = Table(
    "review",
    metadata,
    _text("id"),
    _text("source"),
    _text("source_version"),
    _text("manifest_root"),
    _text("scan_digest"),
    _text("policy_digest"),
    _text("purpose"),
    _text("requested_by"),
    _seconds("requested_s"),
    _seconds("expires_s"),
    _text("request_digest"),
    _text("state"),
    _text("decided_by", null=True),
    _seconds("decided_s", null=True),
    _text("reason", null=True),
    _bytes("decision_signature", null=True),
    *_origin_columns(),
    PrimaryKeyConstraint("id", name="pk_review"),
    ForeignKeyConstraint(
        ["source", "source_version"], ["source.name", "source.version"], name="fk_review_source"
    ),
    Index("ix_review_source", "source", "source_version"),
)

review_terms: Final = Table(
    "review_terms",
    metadata,
    _text("review"),
    _text("terms"),
    *_origin_columns(),
    PrimaryKeyConstraint("review", name="pk_review_terms"),
    ForeignKeyConstraint(["review"], ["review.id"], name="fk_review_terms_review"),
)

access_token: Final = Table(
    "access_token",
    metadata,
    _text("id"),
    _text("identity"),
    _bytes("digest"),
    _text("scopes"),
    _text("created_by"),
    _seconds("created_s"),
    _seconds("expires_s"),
    _seconds("revoked_s", null=True),
    *_origin_columns(),
    PrimaryKeyConstraint("id", name="pk_access_token"),
    ForeignKeyConstraint(["identity"], ["identity.name"], name="fk_access_token_identity"),
)

dataset: Final = Table(
    "dataset",
    metadata,
    _text("name"),
    _text("version"),
    _text("root"),
    _text("kek"),
    _text("source"),
    _text("source_version"),
    _text("source_root"),
    _text("review"),
    _text("recipe_digest"),
    _text("recipe"),
    _text("figures"),
    _text("prepared_by"),
    _seconds("prepared_s"),
    _seconds("expires_s"),
    _text("state"),
    *_origin_columns(),
    PrimaryKeyConstraint("name", "version", name="pk_dataset"),
    UniqueConstraint("root", name="uq_dataset_root"),
    ForeignKeyConstraint(
        ["source", "source_version"], ["source.name", "source.version"], name="fk_dataset_source"
    ),
    ForeignKeyConstraint(["review"], ["review.id"], name="fk_dataset_review"),
    Index("ix_dataset_recipe", "source_root", "recipe_digest"),
)

run: Final = Table(
    "run",
    metadata,
    _text("id"),
    _text("name"),
    _text("dataset"),
    _text("dataset_root"),
    _text("review"),
    _text("spec"),
    _text("spec_digest"),
    _text("kek"),
    _text("started_by"),
    _seconds("started_s"),
    _seconds("ended_s", null=True),
    _text("outcome"),
    *_origin_columns(),
    PrimaryKeyConstraint("id", name="pk_run"),
    ForeignKeyConstraint(["dataset_root"], ["dataset.root"], name="fk_run_dataset"),
    ForeignKeyConstraint(["review"], ["review.id"], name="fk_run_review"),
    Index("ix_run_dataset_root", "dataset_root"),
)

run_part: Final = Table(
    "run_part",
    metadata,
    _text("run"),
    _text("dataset_root"),
    *_origin_columns(),
    PrimaryKeyConstraint("run", "dataset_root", name="pk_run_part"),
    ForeignKeyConstraint(["run"], ["run.id"], name="fk_run_part_run"),
    ForeignKeyConstraint(["dataset_root"], ["dataset.root"], name="fk_run_part_dataset"),
    Index("ix_run_part_dataset_root", "dataset_root"),
)

checkpoint: Final = Table(
    "checkpoint",
    metadata,
    _text("run"),
    _count("sequence"),
    _count("step"),
    _count("attempt"),
    _text("digest"),
    _seconds("committed_s"),
    *_origin_columns(),
    PrimaryKeyConstraint("run", "sequence", name="pk_checkpoint"),
    ForeignKeyConstraint(["run"], ["run.id"], name="fk_checkpoint_run"),
)

tombstone: Final = Table(
    "tombstone",
    metadata,
    _text("kek"),
    _text("requested_by"),
    _text("approved_by"),
    _seconds("destroyed_s"),
    *_origin_columns(),
    PrimaryKeyConstraint("kek", name="pk_tombstone"),
)

CATALOGUE_TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        identity,
        access_token,
        source,
        review,
        review_terms,
        dataset,
        run,
        run_part,
        checkpoint,
        tombstone,
    )
}
"""The tables whose every row is bound to the audit log by its digest."""
