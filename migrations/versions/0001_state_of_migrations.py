"""The state of migrations: every table of schema `migrator`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table, in the order of their references."""
    op.create_table(
        "dirty",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("dirty_pkey")),
        schema="migrator",
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "migrations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("target_schema", sa.Text(), nullable=False),
        sa.Column("target_table", sa.Text(), nullable=False),
        sa.Column("target_column", sa.Text(), nullable=False),
        sa.Column("shadow_column", sa.Text(), nullable=False),
        sa.Column("key_columns", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("key_types", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("fingerprint", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("from_generation", sa.Text(), nullable=False),
        sa.Column("to_generation", sa.Text(), nullable=False),
        sa.Column("live_side", sa.Text(), server_default="from", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("paused_from", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("format_version", sa.Integer(), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("tokens_per_minute", sa.Integer(), nullable=True),
        sa.Column("windows", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("binding", sa.Text(), nullable=True),
        sa.Column("binding_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pass_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("proved_rows", sa.BigInteger(), nullable=True),
        sa.Column("proved_embedded", sa.BigInteger(), nullable=True),
        sa.Column("proved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idle_passes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("write_baseline", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(status = 'paused') = (paused_from IS NOT NULL) AND (paused_from IS NULL OR paused_from IN ('backfilling', 'completed', 'indexing', 'ready', 'validating'))",
            name=op.f("migrations_paused_from_iff_paused"),
        ),
        sa.CheckConstraint(
            "(status IN ('cleaned')) = (finished_at IS NOT NULL)", name=op.f("migrations_finished_iff_final")
        ),
        sa.CheckConstraint("live_side IN ('from', 'to')", name=op.f("migrations_live_side_known")),
        sa.CheckConstraint(
            "status <> 'completed' OR live_side = 'to'", name=op.f("migrations_new_is_live_after_cutover")
        ),
        sa.CheckConstraint(
            "status IN ('backfilling', 'cancelled', 'cleaned', 'cleaning', 'completed', 'indexing', 'paused', 'planned', 'ready', 'rolled_back', 'validating')",
            name=op.f("migrations_status_known"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('planned', 'backfilling', 'indexing', 'validating', 'ready', 'rolled_back', 'cancelled') OR live_side = 'from'",
            name=op.f("migrations_old_is_live_before_cutover"),
        ),
        sa.CheckConstraint(
            "cardinality(key_columns) = cardinality(key_types)", name=op.f("migrations_key_columns_typed")
        ),
        sa.CheckConstraint("from_generation <> to_generation", name=op.f("migrations_generations_differ")),
        sa.PrimaryKeyConstraint("id", name=op.f("migrations_pkey")),
        sa.UniqueConstraint("name", name=op.f("migrations_name_key")),
        schema="migrator",
    )
    op.create_index(
        "migrations_one_open_per_target",
        "migrations",
        ["target_schema", "target_table", "target_column"],
        unique=True,
        schema="migrator",
        postgresql_where=sa.text(
            "status IN ('backfilling', 'cancelled', 'cleaning', 'completed', 'indexing', 'paused', 'ready', 'rolled_back', 'validating')"
        ),
    )
    op.create_table(
        "paces",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("requests_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tokens_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pause_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("max_texts", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("account", name=op.f("paces_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "strays",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("strays_pkey")),
        schema="migrator",
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("queues", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("keys_present", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("workers_pkey")),
        schema="migrator",
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("pass_number", sa.Integer(), nullable=False),
        sa.Column("relation_oid", sa.BigInteger(), nullable=False),
        sa.Column("relation_file", sa.BigInteger(), nullable=False),
        sa.Column("first_page", sa.BigInteger(), nullable=False),
        sa.Column("last_page", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ticket_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("rows_written", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rows_skipped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rows_quarantined", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'done') = (finished_at IS NOT NULL)", name=op.f("batches_finished_iff_done")),
        sa.CheckConstraint(
            "(status = 'leased') = (holder IS NOT NULL) AND (holder IS NULL) = (lease_until IS NULL)",
            name=op.f("batches_leased_iff_held"),
        ),
        sa.CheckConstraint("status IN ('done', 'failed', 'leased', 'pending')", name=op.f("batches_status_known")),
        sa.CheckConstraint("0 <= first_page AND first_page <= last_page", name=op.f("batches_window_not_empty")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("batches_migration_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_index(
        "batches_finished",
        "batches",
        ["migration_id", "finished_at"],
        unique=False,
        schema="migrator",
        postgresql_where=sa.text("status = 'done'"),
    )
    op.create_index(
        "batches_leased",
        "batches",
        ["lease_until"],
        unique=False,
        schema="migrator",
        postgresql_where=sa.text("status = 'leased'"),
    )
    op.create_index("batches_number", "batches", ["migration_id", "number"], unique=True, schema="migrator")
    op.create_index(
        "batches_pending",
        "batches",
        ["migration_id", "id"],
        unique=False,
        schema="migrator",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "budgets",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("max_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("committed_usd", sa.Numeric(precision=20, scale=10), server_default="0", nullable=False),
        sa.CheckConstraint("committed_usd >= 0", name=op.f("budgets_never_negative")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("budgets_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", name=op.f("budgets_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "dispositions",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="1", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('quarantined', 'skipped', 'truncated')", name=op.f("dispositions_kind_known")),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("dispositions_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("migration_id", "key", name=op.f("dispositions_pkey")),
        schema="migrator",
    )
    op.create_table(
        "duties",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("duty", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ticket_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(status = 'leased') = (holder IS NOT NULL) AND (holder IS NULL) = (lease_until IS NULL)",
            name=op.f("duties_leased_iff_held"),
        ),
        sa.CheckConstraint("status IN ('done', 'failed', 'leased', 'pending')", name=op.f("duties_status_known")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("duties_migration_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("duties_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_index("duties_one_each", "duties", ["migration_id", "duty"], unique=True, schema="migrator")
    op.create_table(
        "ledger",
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("spent_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("spent_usd", sa.Numeric(precision=20, scale=10), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("ledger_migration_id_fkey")),
        sa.PrimaryKeyConstraint("migration_id", "purpose", name=op.f("ledger_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_table(
        "live",
        sa.Column("target_schema", sa.Text(), nullable=False),
        sa.Column("target_table", sa.Text(), nullable=False),
        sa.Column("target_column", sa.Text(), nullable=False),
        sa.Column("generation", sa.Text(), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("live_migration_id_fkey")),
        sa.PrimaryKeyConstraint("target_schema", "target_table", "target_column", name=op.f("live_pkey")),
        schema="migrator",
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("lease", sa.Text(), nullable=False),
        sa.Column("possibly_billed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("reservations_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("reservations_pkey")),
        schema="migrator",
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 1000},
    )
    op.create_index(op.f("reservations_lease_idx"), "reservations", ["lease"], unique=False, schema="migrator")
    op.create_index(
        op.f("reservations_migration_id_idx"), "reservations", ["migration_id"], unique=False, schema="migrator"
    )
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"], ["migrator.migrations.id"], name=op.f("transitions_migration_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("transitions_pkey")),
        schema="migrator",
    )
    op.create_index(
        op.f("transitions_migration_id_idx"), "transitions", ["migration_id"], unique=False, schema="migrator"
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("migration_id", sa.BigInteger(), nullable=False),
        sa.Column("gate", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("figure", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("sample", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("waived_by", sa.Text(), nullable=True),
        sa.Column("waiver", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("(waived_by IS NULL) = (waiver IS NULL)", name=op.f("verdicts_waiver_signed")),
        sa.ForeignKeyConstraint(["migration_id"], ["migrator.migrations.id"], name=op.f("verdicts_migration_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("verdicts_pkey")),
        schema="migrator",
    )
    op.create_index(op.f("verdicts_migration_id_idx"), "verdicts", ["migration_id"], unique=False, schema="migrator")


def downgrade() -> None:
    """Drop every table, dependents first."""
    tables = [
        "verdicts",
        "transitions",
        "reservations",
        "live",
        "ledger",
        "duties",
        "dispositions",
        "budgets",
        "batches",
        "workers",
        "strays",
        "paces",
        "migrations",
        "dirty",
    ]
    for name in tables:
        op.drop_table(name, schema="migrator")
