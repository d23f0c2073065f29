"""Throttle: what the last reading of each signal said, and thresholds that were changed live."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of signals, and to each migration its live thresholds and the age of the last reading."""
    op.add_column(
        "migrations",
        sa.Column("throttle", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        schema="migrator",
    )
    op.add_column("migrations", sa.Column("signals_at", sa.DateTime(timezone=True), nullable=True), schema="migrator")
    op.add_column(
        "migrations", sa.Column("signals_until", sa.DateTime(timezone=True), nullable=True), schema="migrator"
    )
    op.create_table(
        "signals",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("signal", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("binds", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("memory", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("problem IS NULL OR binds", name=op.f("signals_unread_binds")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("signals_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", "signal", name=op.f("signals_pkey")),
        schema="migrator",
        postgresql_with={
            "fillfactor": 50,
            "autovacuum_vacuum_scale_factor": 0.01,
            "autovacuum_vacuum_threshold": 1000,
        },
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("signals", schema="migrator")
    for column in ("signals_until", "signals_at", "throttle"):
        op.drop_column("migrations", column, schema="migrator")
