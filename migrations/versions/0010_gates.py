"""Gates: what a verdict rests on, verdicts that were taken back, and the operator's queries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the watermark and the mark of a verdict, and the table of queries."""
    op.add_column(
        "verdicts", sa.Column("watermark", postgresql.JSONB(astext_type=sa.Text()), nullable=True), schema="migrator"
    )
    op.add_column(
        "verdicts",
        sa.Column("retired", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema="migrator",
    )
    op.create_table(
        "queries",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("relevant", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("queries_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", "number", name=op.f("queries_pkey")),
        schema="migrator",
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("queries", schema="migrator")
    op.drop_column("verdicts", "retired", schema="migrator")
    op.drop_column("verdicts", "watermark", schema="migrator")
