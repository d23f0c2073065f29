"""Written vectors and which of them look like the other generation's; the look at every vector that is under way."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and give the rule a cut for the old generation's column."""
    _create_looks()
    for name in ("old_cut", "old_gate"):
        op.add_column("discriminants", sa.Column(name, sa.Float()), schema="migrator")
    op.create_table(
        "written",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("written_pkey")),
        schema="migrator",
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "suspects",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("looked_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("side IN ('from', 'to')", name=op.f("suspects_side_known")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("suspects_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", "side", "key", name=op.f("suspects_pkey")),
        schema="migrator",
    )


def _create_looks() -> None:
    op.create_table(
        "looks",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("frame", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("learnt", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("found", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("looks_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", name=op.f("looks_pkey")),
        schema="migrator",
        postgresql_with={
            "fillfactor": 50,
            "autovacuum_vacuum_scale_factor": 0.01,
            "autovacuum_vacuum_threshold": 1000,
        },
    )
    op.create_table(
        "look_rows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("look_rows_migration_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("look_rows_pkey")),
        schema="migrator",
    )
    op.create_index(op.f("look_rows_migration_id_idx"), "look_rows", ["migration_id"], unique=False, schema="migrator")


def downgrade() -> None:
    """Drop them, and the cut."""
    op.drop_table("look_rows", schema="migrator")
    op.drop_table("looks", schema="migrator")
    op.drop_table("suspects", schema="migrator")
    op.drop_table("written", schema="migrator")
    for name in ("old_cut", "old_gate"):
        op.drop_column("discriminants", name, schema="migrator")
