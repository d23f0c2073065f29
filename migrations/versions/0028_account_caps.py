"""Caps of provider accounts: what all migrations that ask with one key at one address may cost together."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; no account has a cap of its own."""
    op.create_table(
        "account_caps",
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("api_key_env", sa.Text(), nullable=False),
        sa.Column("max_usd", sa.Numeric(20, 10), nullable=False),
        sa.PrimaryKeyConstraint("base_url", "api_key_env", name="account_caps_pkey"),
        sa.CheckConstraint("max_usd >= 0", name=op.f("account_caps_never_negative")),
        schema="migrator",
    )


def downgrade() -> None:
    """Drop it; each migration's own cap stays."""
    op.drop_table("account_caps", schema="migrator")
