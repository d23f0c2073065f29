"""Whether the old column is kept fresh while the rollback window is open."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; windows that are open go on as they did."""
    op.add_column(
        "migrations",
        sa.Column("keep_fresh", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        schema="migrator",
    )


def downgrade() -> None:
    """Drop it: debts are settled before the swap back, as they were."""
    op.drop_column("migrations", "keep_fresh", schema="migrator")
