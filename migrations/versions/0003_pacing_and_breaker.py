"""Who keeps the pace, what 429s taught, and the breaker."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def _columns() -> list[sa.Column]:
    now, zero = sa.text("now()"), "0"
    return [
        sa.Column("keeper", sa.Text(), nullable=True),
        sa.Column("keeper_at", _TIME, nullable=True),
        sa.Column("started_at", _TIME, server_default=now, nullable=False),
        sa.Column("counted_at", _TIME, server_default=now, nullable=False),
        sa.Column("recent_requests", sa.Float(), server_default=zero, nullable=False),
        sa.Column("recent_tokens", sa.Float(), server_default=zero, nullable=False),
        sa.Column("requests_ceiling", sa.Float(), nullable=True),
        sa.Column("requests_lowered_at", _TIME, nullable=True),
        sa.Column("tokens_ceiling", sa.Float(), nullable=True),
        sa.Column("tokens_lowered_at", _TIME, nullable=True),
        sa.Column("failures", sa.Integer(), server_default=zero, nullable=False),
        sa.Column("answers", sa.Integer(), server_default=zero, nullable=False),
        sa.Column("failing", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("counting_since", _TIME, nullable=True),
        sa.Column("breaker_since", _TIME, nullable=True),
        sa.Column("breaker_reason", sa.Text(), nullable=True),
        sa.Column("probe_at", _TIME, nullable=True),
    ]


def upgrade() -> None:
    """Add them; an account that is there begins slowly once."""
    for column in _columns():
        op.add_column("paces", column, schema="migrator")
    op.create_check_constraint(
        op.f("paces_open_breaker_has_a_probe"),
        "paces",
        "(breaker_since IS NULL) = (probe_at IS NULL) AND (breaker_since IS NULL) = (breaker_reason IS NULL)",
        schema="migrator",
    )
    seen = sa.Column("quarantine_seen", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    op.add_column("migrations", seen, schema="migrator")


def downgrade() -> None:
    """Drop them; what was learnt is learnt again."""
    op.drop_column("migrations", "quarantine_seen", schema="migrator")
    op.drop_constraint(op.f("paces_open_breaker_has_a_probe"), "paces", schema="migrator")
    for column in reversed(_columns()):
        op.drop_column("paces", column.name, schema="migrator")
