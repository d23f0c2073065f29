-- Cleaning up: what is left of a migration on the operator's table.

-- name: objects
-- What would be dropped, with its size. Statistics know only the width of a vector's TOAST pointer, so a column's is
-- reckoned: 4 bytes a dimension (halfvec: 2) and 8 a vector (pgvector README), times the rows.
SELECT 'index' AS kind, c.relname::text AS name, pg_relation_size(c.oid) AS bytes
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %(oid)s AND c.relname LIKE '%%\_\_migrator'
UNION ALL
SELECT 'column', a.attname::text,
       (a.atttypmod * CASE (SELECT typname FROM pg_type WHERE oid = a.atttypid) WHEN 'halfvec' THEN 2 ELSE 4 END + 8)
       * greatest((SELECT reltuples::bigint FROM pg_class WHERE oid = a.attrelid), 0)
  FROM pg_attribute a WHERE a.attrelid = %(oid)s AND NOT a.attisdropped AND a.attname LIKE '%%\_\_migrator'
UNION ALL
SELECT 'trigger', t.tgname::text, 0 FROM pg_trigger t
 WHERE t.tgrelid = %(oid)s AND t.tgname LIKE '%%\_\_migrator' AND NOT t.tgisinternal
ORDER BY 1, 2

-- name: drop_index
-- locks: SHARE UPDATE EXCLUSIVE on the table, shortly; waits for transactions that use it.   idempotent: yes.
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: check
-- Under the lock: after this nobody marks rows any more, so none may be left without the live generation's vector.
DO $check$
BEGIN
  IF EXISTS (SELECT FROM migrator.dirty WHERE migration_id = {migration_id} AND side = {side}) THEN
    RAISE EXCEPTION 'migrator: rows still lack a vector' USING ERRCODE = 'MG003';
  END IF;
END
$check$

-- name: drop_column
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: yes.   Metadata only: the space returns as rows
-- are updated, or by a rewrite.
ALTER TABLE {table} DROP COLUMN IF EXISTS {shadow}

-- name: forget
-- idempotent: yes.
DELETE FROM migrator.dirty WHERE migration_id = {migration_id}

-- name: forget_parked
-- idempotent: yes.
DELETE FROM migrator.parked WHERE migration_id = {migration_id}

-- name: forget_written
-- idempotent: yes.
DELETE FROM migrator.written WHERE migration_id = {migration_id}

-- name: forget_look_rows
-- idempotent: yes.
DELETE FROM migrator.look_rows WHERE migration_id = {migration_id}

-- name: forget_looks
-- idempotent: yes.
DELETE FROM migrator.looks WHERE migration_id = {migration_id}

-- name: forget_suspects
-- idempotent: yes.
DELETE FROM migrator.suspects WHERE migration_id = {migration_id}

-- name: forget_readers
-- idempotent: yes.
DELETE FROM migrator.readers WHERE migration_id = {migration_id}

-- name: forget_writers
-- What roles were declared to write goes with the functions that held it.
-- idempotent: yes.
UPDATE migrator.migrations SET writers = '{{}}' WHERE id = {migration_id}
