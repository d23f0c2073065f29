"""Writers declared by their role, and diverted writes as sums an hour: a busy day of them is told from a few rows."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_BUSY = {"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000}


def upgrade() -> None:
    """Add the column and the table; what was diverted so far is added up by the first tick."""
    op.add_column(
        "migrations",
        sa.Column("writers", postgresql.JSONB(), server_default="{}", nullable=False),
        schema="migrator",
    )
    op.create_table(
        "stray_sums",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("generation", sa.Text(), nullable=False),
        sa.Column("writes", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name="stray_sums_migration_id_fkey"),
        sa.PrimaryKeyConstraint("migration_id", "hour", "application", "role", "generation", name="stray_sums_pkey"),
        schema="migrator",
        postgresql_with=_BUSY,
    )


def downgrade() -> None:
    """Drop them; declared roles are undeclared by the next swap."""
    op.drop_table("stray_sums", schema="migrator")
    op.drop_column("migrations", "writers", schema="migrator")
