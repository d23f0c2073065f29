"""What the proof counted outside the scope, so that every row is told of (P6)."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count."""
    op.add_column("migrations", sa.Column("proved_filtered", sa.BigInteger(), nullable=True), schema="migrator")


def downgrade() -> None:
    """Drop it."""
    op.drop_column("migrations", "proved_filtered", schema="migrator")
