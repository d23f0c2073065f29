"""NOT NULL of a live column, taken off by the swap and put back by cleanup: its name is remembered meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("migrations", sa.Column("not_null", sa.Text()), schema="migrator")


def downgrade() -> None:
    """Drop it; a column that is nullable for the time being stays so."""
    op.drop_column("migrations", "not_null", schema="migrator")
