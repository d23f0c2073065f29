"""Counted dispositions: a line per statement and reason, so that counting them never reads them all."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_BUSY = {"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000}

_FUNCTION = """
CREATE FUNCTION migrator.count_dispositions() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO migrator.disposition_changes (migration_id, kind, reason, rows)
    SELECT migration_id, kind, reason, -count(*) FROM gone GROUP BY 1, 2, 3;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO migrator.disposition_changes (migration_id, kind, reason, rows)
    SELECT migration_id, kind, reason, count(*) FROM come GROUP BY 1, 2, 3;
  END IF;
  RETURN NULL;
END $$
"""
_TRIGGERS = {
    "INSERT": "REFERENCING NEW TABLE AS come",
    "UPDATE": "REFERENCING OLD TABLE AS gone NEW TABLE AS come",
    "DELETE": "REFERENCING OLD TABLE AS gone",
}


def upgrade() -> None:
    """Create the tables and the triggers, and count what is there."""
    for name, key in (("disposition_sums", True), ("disposition_changes", False)):
        op.create_table(
            name,
            sa.Column("migration_id", sa.BigInteger(), nullable=False),
            sa.Column("kind", sa.Text(), nullable=False),
            sa.Column("reason", sa.Text(), nullable=False),
            sa.Column("rows", sa.BigInteger(), nullable=False),
            sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=f"{name}_migration_id_fkey"),
            *([sa.PrimaryKeyConstraint("migration_id", "kind", "reason", name=f"{name}_pkey")] if key else []),
            schema="migrator",
            postgresql_with=_BUSY,
        )
    op.create_index("disposition_changes_migration_id_idx", "disposition_changes", ["migration_id"], schema="migrator")
    op.execute(_FUNCTION)
    op.execute("LOCK TABLE migrator.dispositions IN SHARE ROW EXCLUSIVE MODE")
    for event, tables in _TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER count_{event.lower()} AFTER {event} ON migrator.dispositions {tables}"
            " FOR EACH STATEMENT EXECUTE FUNCTION migrator.count_dispositions()"
        )
    op.execute(
        "INSERT INTO migrator.disposition_sums SELECT migration_id, kind, reason, count(*)"
        " FROM migrator.dispositions GROUP BY 1, 2, 3"
    )


def downgrade() -> None:
    """Drop them."""
    for event in _TRIGGERS:
        op.execute(f"DROP TRIGGER count_{event.lower()} ON migrator.dispositions")
    op.execute("DROP FUNCTION migrator.count_dispositions()")
    op.drop_table("disposition_changes", schema="migrator")
    op.drop_table("disposition_sums", schema="migrator")
