"""Rows in hand: which rows the holder of a batch is embedding, by a hash of their keys."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the hashes to each batch."""
    op.add_column("batches", sa.Column("in_hand", sa.ARRAY(sa.BigInteger())), schema="migrator")


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("batches", "in_hand", schema="migrator")
