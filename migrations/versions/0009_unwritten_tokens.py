"""Unwritten tokens: what was answered and billed when the lease or the database was gone."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count to each purpose's line in the ledger."""
    op.add_column(
        "ledger",
        sa.Column("unwritten_tokens", sa.BigInteger(), server_default="0", nullable=False),
        schema="migrator",
    )


def downgrade() -> None:
    """Take it away again."""
    op.drop_column("ledger", "unwritten_tokens", schema="migrator")
