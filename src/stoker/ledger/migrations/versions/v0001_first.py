"""The first schema: the catalogue and the audit log.

Written out in full and never changed afterwards; `stoker.ledger.schema` is what the newest version gives.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_meta",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_meta"),
    )
    _create_audit_log()
    _create_data_tables()
    _create_run_tables()


def _create_audit_log() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("idx", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("row_digests", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("idx", name="pk_audit_entry"),
    )
    op.create_table(
        "audit_node",
        sa.Column("level", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("idx", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "idx", name="pk_audit_node"),
    )
    op.create_table(
        "audit_checkpoint",
        sa.Column("size", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_audit_checkpoint"),
    )


def _create_data_tables() -> None:
    op.create_table(
        "identity",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("name", name="pk_identity"),
    )
    op.create_table(
        "source",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("manifest_root", sa.Text, nullable=False),
        sa.Column("kek", sa.Text, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("content_bytes", sa.BigInteger, nullable=False),
        sa.Column("left_out", sa.Text, nullable=False),
        sa.Column("imported_by", sa.Text, nullable=False),
        sa.Column("imported_s", sa.Double, nullable=False),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("name", "version", name="pk_source"),
    )
    op.create_table(
        "review",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_version", sa.Text, nullable=False),
        sa.Column("manifest_root", sa.Text, nullable=False),
        sa.Column("scan_digest", sa.Text, nullable=False),
        sa.Column("policy_digest", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("requested_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.Column("request_digest", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decided_by", sa.Text, nullable=True),
        sa.Column("decided_s", sa.Double, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("decision_signature", sa.LargeBinary, nullable=True),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_review"),
        sa.ForeignKeyConstraint(
            ["source", "source_version"], ["source.name", "source.version"], name="fk_review_source"
        ),
    )
    op.create_index("ix_review_source", "review", ["source", "source_version"])
    op.create_table(
        "dataset",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("root", sa.Text, nullable=False),
        sa.Column("kek", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_version", sa.Text, nullable=False),
        sa.Column("source_root", sa.Text, nullable=False),
        sa.Column("review", sa.Text, nullable=False),
        sa.Column("recipe_digest", sa.Text, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.Column("prepared_by", sa.Text, nullable=False),
        sa.Column("prepared_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("name", "version", name="pk_dataset"),
        sa.UniqueConstraint("root", name="uq_dataset_root"),
        sa.ForeignKeyConstraint(
            ["source", "source_version"], ["source.name", "source.version"], name="fk_dataset_source"
        ),
        sa.ForeignKeyConstraint(["review"], ["review.id"], name="fk_dataset_review"),
    )
    op.create_index("ix_dataset_recipe", "dataset", ["source_root", "recipe_digest"])


def _create_run_tables() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("dataset", sa.Text, nullable=False),
        sa.Column("dataset_root", sa.Text, nullable=False),
        sa.Column("review", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("spec_digest", sa.Text, nullable=False),
        sa.Column("kek", sa.Text, nullable=False),
        sa.Column("started_by", sa.Text, nullable=False),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double, nullable=True),
        sa.Column("outcome", sa.Text, nullable=False),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.ForeignKeyConstraint(["dataset_root"], ["dataset.root"], name="fk_run_dataset"),
        sa.ForeignKeyConstraint(["review"], ["review.id"], name="fk_run_review"),
    )
    op.create_index("ix_run_dataset_root", "run", ["dataset_root"])
    op.create_table(
        "checkpoint",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("committed_s", sa.Double, nullable=False),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("run", "sequence", name="pk_checkpoint"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_checkpoint_run"),
    )
    op.create_table(
        "tombstone",
        sa.Column("kek", sa.Text, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
        sa.Column("destroyed_s", sa.Double, nullable=False),
        *_origin_columns(),
        sa.PrimaryKeyConstraint("kek", name="pk_tombstone"),
    )


def _origin_columns() -> tuple[sa.Column[int], sa.Column[int]]:
    return (
        sa.Column("entry", sa.BigInteger, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
    )
