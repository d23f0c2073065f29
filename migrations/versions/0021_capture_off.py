"""Capture that an operator took off: since when, and from which transaction on writes were seen by nobody."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_RESTS = "status IN ('paused', 'rolled_back', 'cancelled', 'cleaning', 'cleaned')"


def upgrade() -> None:
    """Add the columns, what must never be false of them, and the rows to be looked at afterwards."""
    op.add_column("migrations", sa.Column("capture_off_at", sa.DateTime(timezone=True)), schema="migrator")
    op.add_column("migrations", sa.Column("capture_off_xid", sa.BigInteger()), schema="migrator")
    op.add_column(
        "migrations",
        sa.Column("capture_turn", sa.BigInteger(), nullable=False, server_default="0"),
        schema="migrator",
    )
    op.create_check_constraint(
        "capture_off_rests",
        "migrations",
        f"(capture_off_at IS NULL) = (capture_off_xid IS NULL) AND (capture_off_at IS NULL OR {_RESTS})",
        schema="migrator",
    )
    op.create_table(
        "unseen",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name="unseen_pkey"),
        schema="migrator",
    )
    op.create_index("unseen_key", "unseen", ["migration_id", "key"], schema="migrator")


def downgrade() -> None:
    """Drop them; a migration whose capture is off must not go on."""
    op.drop_table("unseen", schema="migrator")
    op.drop_constraint(op.f("migrations_capture_off_rests"), "migrations", schema="migrator")
    op.drop_column("migrations", "capture_turn", schema="migrator")
    op.drop_column("migrations", "capture_off_xid", schema="migrator")
    op.drop_column("migrations", "capture_off_at", schema="migrator")
