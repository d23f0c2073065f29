"""Hints by key: a row whose key changes takes its hints along, and is looked for among all of them."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index; writers wait for it as long as it takes to read the hints that are there."""
    op.create_index("dirty_key", "dirty", ["migration_id", "key"], schema="migrator")


def downgrade() -> None:
    """Take it away again."""
    op.drop_index("dirty_key", table_name="dirty", schema="migrator")
