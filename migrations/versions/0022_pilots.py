"""Pilots: the rows that were drawn, the vectors that were paid for, and what came out."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "pilots",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("sample", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("calibration", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("page", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(finished_at IS NULL) = (page IS NULL)", name=op.f("pilots_finished_iff_told")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("pilots_migration_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("pilots_pkey")),
        schema="migrator",
    )
    op.create_index(op.f("pilots_migration_id_idx"), "pilots", ["migration_id"], schema="migrator")
    op.create_table(
        "pilot_vectors",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.LargeBinary(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.CheckConstraint("(vector IS NULL) = (reason IS NOT NULL)", name=op.f("pilot_vectors_vector_or_reason")),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("pilot_vectors_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("migration_id", "model", "text_hash", name=op.f("pilot_vectors_pkey")),
        schema="migrator",
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("pilot_vectors", schema="migrator")
    op.drop_table("pilots", schema="migrator")
