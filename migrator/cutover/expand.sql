-- name: add_column
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: no.
ALTER TABLE {table} ADD COLUMN {shadow} {type}

-- name: live
-- What readers use now. For `status` and LISTEN; their functions carry it as a constant (H10).
-- idempotent: yes.
INSERT INTO migrator.live (target_schema, target_table, target_column, generation, migration_id)
VALUES ({target_schema}, {target_table}, {target_column}, {generation}, {migration_id})
ON CONFLICT (target_schema, target_table, target_column)
  DO UPDATE SET generation = excluded.generation, migration_id = excluded.migration_id, since = now()
