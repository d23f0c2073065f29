"""Dispositions are counted in sessions that silence triggers too, as landings on a table with triggers of its own are."""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_TRIGGERS = ("count_insert", "count_update", "count_delete")


def upgrade() -> None:
    """Let the triggers fire always, and count anew what they missed."""
    op.execute(
        "LOCK TABLE migrator.dispositions, migrator.disposition_changes, migrator.disposition_sums"
        " IN SHARE ROW EXCLUSIVE MODE"
    )
    for name in _TRIGGERS:
        op.execute(f"ALTER TABLE migrator.dispositions ENABLE ALWAYS TRIGGER {name}")
    op.execute("DELETE FROM migrator.disposition_changes")
    op.execute("DELETE FROM migrator.disposition_sums")
    op.execute(
        "INSERT INTO migrator.disposition_sums SELECT migration_id, kind, reason, count(*)"
        " FROM migrator.dispositions GROUP BY 1, 2, 3"
    )


def downgrade() -> None:
    """Let them fire in ordinary sessions only; the counts stay."""
    for name in _TRIGGERS:
        op.execute(f"ALTER TABLE migrator.dispositions ENABLE TRIGGER {name}")
