"""Written vectors: those that the application brought itself, and which of them look like the other generation's."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables, and give the rule a cut for the old generation's column."""
    op.add_column("discriminants", sa.Column("old_cut", sa.Float()), schema="migrator")
    op.create_table(
        "written",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("written_pkey")),
        schema="migrator",
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "suspects",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("looked_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("side IN ('from', 'to')", name=op.f("suspects_side_known")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("suspects_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", "side", "key", name=op.f("suspects_pkey")),
        schema="migrator",
    )


def downgrade() -> None:
    """Drop them, and the cut."""
    op.drop_table("suspects", schema="migrator")
    op.drop_table("written", schema="migrator")
    op.drop_column("discriminants", "old_cut", schema="migrator")
