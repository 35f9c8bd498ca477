"""The further datasets of a run that trains on a mixture, and an index to find acts by what was done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_audit_entry_action", "audit_entry", ["action", "subject"])
    op.create_table(
        "run_part",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("dataset_root", sa.Text, nullable=False),
        sa.Column("entry", sa.BigInteger, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run", "dataset_root", name="pk_run_part"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_run_part_run"),
        sa.ForeignKeyConstraint(["dataset_root"], ["dataset.root"], name="fk_run_part_dataset"),
    )
    op.create_index("ix_run_part_dataset_root", "run_part", ["dataset_root"])
