"""Parked: what rows outside the scope waited for, under `only_embedded`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; a trigger installed before it goes on without."""
    op.create_table(
        "parked",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("key", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("side", sa.String(4), nullable=False),
        sa.PrimaryKeyConstraint("migration_id", "key", "side", name=op.f("parked_pkey")),
        schema="migrator",
    )


def downgrade() -> None:
    """Drop it; rows that come back into a scope are forgotten again."""
    op.drop_table("parked", schema="migrator")
