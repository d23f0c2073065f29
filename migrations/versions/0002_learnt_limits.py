"""Limits and norms learnt from the provider's own answers, and tokens that it did not report."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is learnt per account, and what of a bill is our own count."""
    op.add_column("paces", sa.Column("max_text_tokens", sa.Integer(), nullable=True), schema="migrator")
    op.add_column("paces", sa.Column("max_request_tokens", sa.Integer(), nullable=True), schema="migrator")
    op.add_column(
        "paces",
        sa.Column("norms", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        schema="migrator",
    )
    op.add_column(
        "ledger", sa.Column("estimated_tokens", sa.BigInteger(), server_default="0", nullable=False), schema="migrator"
    )
    op.add_column(
        "reservations",
        sa.Column("estimated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema="migrator",
    )


def downgrade() -> None:
    """Forget them again."""
    op.drop_column("reservations", "estimated", schema="migrator")
    op.drop_column("ledger", "estimated_tokens", schema="migrator")
    for name in ("norms", "max_request_tokens", "max_text_tokens"):
        op.drop_column("paces", name, schema="migrator")
