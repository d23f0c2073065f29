"""Priorities: which migrations of one provider account are offered work first."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; everybody is of the same priority."""
    op.add_column(
        "schedules", sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="0"), schema="migrator"
    )
    op.create_check_constraint(
        op.f("schedules_priority_small"), "schedules", "priority BETWEEN -9 AND 9", schema="migrator"
    )


def downgrade() -> None:
    """Drop it; whoever asks first is served first."""
    op.drop_column("schedules", "priority", schema="migrator")
