"""Canaries, and what was found out about where the old vectors come from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "canaries",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("probes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("vectors", sa.LargeBinary(), nullable=False),
        sa.Column("told_apart", sa.Boolean(), nullable=True),
        sa.Column("compares_replies", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("demanded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("checks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lowest_cosine", sa.Float(), server_default="1", nullable=False),
        sa.Column("good_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("good_xid", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("moved_cosine", sa.Float(), nullable=True),
        sa.CheckConstraint("(moved_at IS NULL) = (moved_cosine IS NULL)", name=op.f("canaries_moved_with_cosine")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("canaries_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", name=op.f("canaries_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "provenances",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("page", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("waiver", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('fits', 'misfits', 'skipped', 'unknown')", name=op.f("provenances_outcome_known")
        ),
        sa.CheckConstraint("(outcome = 'skipped') = (waiver IS NOT NULL)", name=op.f("provenances_skipped_iff_waived")),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("provenances_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("provenances_pkey")),
        schema="migrator",
    )
    op.create_index(
        op.f("provenances_migration_id_idx"), "provenances", ["migration_id"], unique=False, schema="migrator"
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("provenances", schema="migrator")
    op.drop_table("canaries", schema="migrator")
