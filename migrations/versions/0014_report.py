"""The report: a migration's history, and what a verdict was worked out from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of samples, and the evidence of a verdict."""
    op.create_table(
        "samples",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rows_settled", sa.BigInteger(), nullable=False),
        sa.Column("rows_caught_up", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("spent_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("committed_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("dirty_to", sa.BigInteger(), nullable=False),
        sa.Column("dirty_from", sa.BigInteger(), nullable=False),
        sa.Column("updates", sa.BigInteger(), nullable=True),
        sa.Column("hot_updates", sa.BigInteger(), nullable=True),
        sa.Column("dead_rows", sa.BigInteger(), nullable=True),
        sa.Column("binding", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("samples_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", "number", name=op.f("samples_pkey")),
        schema="migrator",
    )
    op.add_column(
        "verdicts", sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=True), schema="migrator"
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("verdicts", "evidence", schema="migrator")
    op.drop_table("samples", schema="migrator")
