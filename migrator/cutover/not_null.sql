-- NOT NULL of the vector column, put back after a migration.

-- name: missing
-- Rows without a vector: those that nobody is about to give one, and those that catch-up would.
-- locks: none.
SELECT count(*) FILTER (WHERE NOT n.awaited) AS missing, count(*) FILTER (WHERE n.awaited) AS awaited
  FROM (SELECT EXISTS (SELECT FROM migrator.dirty AS d
                        WHERE d.migration_id = {migration_id} AND d.side = {side} AND d.key = {key}) AS awaited
          FROM {table} AS t WHERE t.{column} IS NULL) AS n

-- name: add
-- PostgreSQL 18: what is written from now on is held to it, without a look at the table.
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: no.
ALTER TABLE {table} ADD CONSTRAINT {name} NOT NULL {column} NOT VALID

-- name: comment
-- locks: SHARE UPDATE EXCLUSIVE on the table, held already.   idempotent: yes.
COMMENT ON CONSTRAINT {name} ON {table} IS {comment}

-- name: add_check
-- Before 18: a CHECK that says the same, which SET NOT NULL takes for proof.
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: no.
ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} IS NOT NULL) NOT VALID

-- name: validate
-- locks: SHARE UPDATE EXCLUSIVE on the table while it is read.   idempotent: yes.
ALTER TABLE {table} VALIDATE CONSTRAINT {name}

-- name: set
-- locks: ACCESS EXCLUSIVE on the table, held already; no look at it, since the CHECK is valid.   idempotent: yes.
ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL

-- name: drop_check
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: no.
ALTER TABLE {table} DROP CONSTRAINT {name}

-- name: forget
-- idempotent: yes.
UPDATE migrator.migrations SET not_null = NULL WHERE id = {migration_id}
