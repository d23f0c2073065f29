"""Readers: which applications search a column, and what each can embed its queries with."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "readers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("generations", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("readers_pkey")),
        schema="migrator",
    )
    op.create_index(op.f("readers_last_seen_idx"), "readers", ["last_seen"], unique=False, schema="migrator")


def downgrade() -> None:
    """Drop it, and the function that writes it."""
    op.execute("DROP FUNCTION IF EXISTS migrator.reader_ready(text, text, text[], text, text)")
    op.drop_table("readers", schema="migrator")
