"""Discriminants: the rule that tells a migration's two generations apart."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "discriminants",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("dims", sa.Integer(), nullable=False),
        sa.Column("numbers", sa.LargeBinary(), nullable=False),
        sa.Column("weights", sa.ARRAY(sa.Float()), nullable=False),
        sa.Column("gate", sa.Float(), nullable=False),
        sa.Column("cut", sa.Float(), nullable=False),
        sa.Column("held_out", sa.Integer(), nullable=False),
        sa.Column("miss_bound", sa.Float(), nullable=False),
        sa.Column("alarm_bound", sa.Float(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("discriminants_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("migration_id", name=op.f("discriminants_pkey")),
        schema="migrator",
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("discriminants", schema="migrator")
