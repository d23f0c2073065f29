"""Tries of hints: how often whoever had a hint alone fell silent, for the side that has no dispositions."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count to each hint; the capture triggers name their columns and leave it alone."""
    op.add_column("dirty", sa.Column("tries", sa.Integer(), server_default="0", nullable=False), schema="migrator")


def downgrade() -> None:
    """Take it away again."""
    op.drop_column("dirty", "tries", schema="migrator")
