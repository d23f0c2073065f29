"""How alembic runs: on the connection that `migrator.state.schema` hands over, inside its transaction."""

from alembic import context

from migrator.state.tables import SCHEMA, metadata

connection = context.config.attributes.get("connection")
if connection is None:
    message = "run `migrator init`: the revisions of schema migrator are applied by it, not by the alembic command"
    raise SystemExit(message)

context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    transaction_per_migration=False,
)
context.run_migrations()
