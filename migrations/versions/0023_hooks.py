"""Hooks: the outbox of events, and since when something has lasted that becomes one."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_BUSY = {
    "postgresql_with": {
        "fillfactor": 50,
        "autovacuum_vacuum_scale_factor": 0.01,
        "autovacuum_vacuum_threshold": 1000,
    }
}


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "hook_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event_id", postgresql.UUID(as_uuid=False), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("mark", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.CheckConstraint("channel IN ('command', 'url')", name=op.f("hook_events_channel_known")),
        sa.CheckConstraint("told_at IS NULL OR given_up_at IS NULL", name=op.f("hook_events_told_or_given_up")),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("hook_events_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("hook_events_pkey")),
        schema="migrator",
        **_BUSY,
    )
    op.create_index(
        "hook_events_once", "hook_events", ["migration_id", "channel", "mark"], unique=True, schema="migrator"
    )
    op.create_index(
        "hook_events_due",
        "hook_events",
        ["not_before"],
        schema="migrator",
        postgresql_where=sa.text("told_at IS NULL AND given_up_at IS NULL"),
    )
    op.create_table(
        "hook_watches",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("hook_watches_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("migration_id", "event", name=op.f("hook_watches_pkey")),
        schema="migrator",
        **_BUSY,
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("hook_watches", schema="migrator")
    op.drop_table("hook_events", schema="migrator")
