"""Schedules: when a migration may begin, and when one that came to rest by itself is tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "schedules",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True)),
        sa.Column("resume_daily", sa.Text()),
        sa.Column("resumed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("migration_id", name="schedules_pkey"),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name="schedules_migration_id_fkey"),
        schema="migrator",
    )


def downgrade() -> None:
    """Drop it; nothing is resumed by itself any more."""
    op.drop_table("schedules", schema="migrator")
