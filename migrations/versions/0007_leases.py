"""Leases: deaths and windows inside a page, tallies, catch-up's flow, the server's timeline."""

import sqlalchemy as sa
from alembic import op

from migrator.state import timeline

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BUSY = {"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000}


def upgrade() -> None:
    """Add columns and indexes, and the two tables that spare a scan of the batches."""
    for table in ("batches", "duties"):
        op.add_column(table, sa.Column("deaths", sa.Integer(), server_default="0", nullable=False), schema="migrator")
    op.add_column(
        "batches", sa.Column("first_item", sa.Integer(), server_default="0", nullable=False), schema="migrator"
    )
    op.add_column("batches", sa.Column("last_item", sa.Integer(), nullable=True), schema="migrator")
    op.add_column(
        "batches", sa.Column("folded", sa.Boolean(), server_default=sa.text("false"), nullable=False), schema="migrator"
    )
    op.add_column(
        "duties", sa.Column("rows_embedded", sa.BigInteger(), server_default="0", nullable=False), schema="migrator"
    )
    op.add_column("migrations", sa.Column("timeline", sa.Integer(), nullable=True), schema="migrator")
    _indexes()
    op.create_table(
        "tallies",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("total", "done", "rows_written", "rows_skipped", "rows_quarantined", "tokens")
        ),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("tallies_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", name=op.f("tallies_pkey")),
        schema="migrator",
        postgresql_with=_BUSY,
    )
    op.execute(
        "INSERT INTO migrator.tallies (migration_id, total)"
        " SELECT migration_id, count(*) FROM migrator.batches GROUP BY migration_id"
    )
    op.create_table(
        "flows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("backlog", sa.BigInteger(), nullable=False),
        sa.Column("embedded", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("flows_migration_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("flows_pkey")),
        schema="migrator",
        postgresql_with=_BUSY,
    )
    op.create_index(op.f("flows_migration_id_idx"), "flows", ["migration_id"], schema="migrator")
    op.execute(timeline.FUNCTION)


def _indexes() -> None:
    op.drop_index("batches_leased", "batches", schema="migrator")
    conditions = {
        "batches_leased": "status = 'leased'",
        "batches_ticketed": "status = 'pending' AND ticket_until IS NOT NULL",
        "batches_touched": "NOT folded AND (status <> 'pending' OR fence > 0)",
    }
    for name, condition in conditions.items():
        op.create_index(name, "batches", ["migration_id"], schema="migrator", postgresql_where=sa.text(condition))


def downgrade() -> None:
    """Take all of it back."""
    op.execute("DROP FUNCTION migrator.timeline()")
    op.drop_table("flows", schema="migrator")
    op.drop_table("tallies", schema="migrator")
    for name in ("batches_leased", "batches_ticketed", "batches_touched"):
        op.drop_index(name, "batches", schema="migrator")
    op.create_index(
        "batches_leased",
        "batches",
        ["lease_until"],
        schema="migrator",
        postgresql_where=sa.text("status = 'leased'"),
    )
    op.drop_column("migrations", "timeline", schema="migrator")
    for table, name in (
        ("duties", "rows_embedded"),
        ("batches", "folded"),
        ("batches", "last_item"),
        ("batches", "first_item"),
        ("duties", "deaths"),
        ("batches", "deaths"),
    ):
        op.drop_column(table, name, schema="migrator")
