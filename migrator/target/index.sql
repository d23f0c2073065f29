-- The shadow column's indexes: the live column's, once more.

-- name: build
-- locks: SHARE UPDATE EXCLUSIVE on the table for the whole build: writers go on, autovacuum waits. Pins the xmin
-- horizon as long as it lasts (H18).   idempotent: no: look for a valid or building one first.
CREATE INDEX CONCURRENTLY {name} ON {table} USING {method} ({column} {opclass}){options}{tablespace}{predicate}

-- name: build_parent
-- On a partitioned table the index itself is only a name, which becomes valid when every partition's is attached.
-- locks: SHARE on the partitioned table alone, for a moment, with a lock_timeout.   idempotent: no.
CREATE INDEX {name} ON ONLY {table} USING {method} ({column} {opclass}){options}{tablespace}{predicate}

-- name: attach
-- locks: SHARE UPDATE EXCLUSIVE on the partitioned index, ACCESS EXCLUSIVE on the part's, for a moment.   idempotent: yes.
ALTER INDEX {parent} ATTACH PARTITION {index}

-- name: parts
-- The partitions' own indexes that belong to a partitioned index, by the table that they are on.
SELECT x.indrelid::bigint AS heap_oid, n.nspname::text AS schema, c.relname::text AS name
  FROM pg_inherits h JOIN pg_index x ON x.indexrelid = h.inhrelid
  JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE h.inhparent = (SELECT i.indexrelid FROM pg_index i JOIN pg_class p ON p.oid = i.indexrelid
                       WHERE i.indrelid = %(oid)s::oid AND p.relname = %(name)s)

-- name: drop
-- locks: SHARE UPDATE EXCLUSIVE on the table, shortly.   idempotent: yes.
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: session
-- A build takes as long as it takes, and a lock_timeout would leave it INVALID (H18).
SELECT set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false),
       set_config('search_path', 'pg_catalog', false), set_config('application_name', {application}, false),
       set_config('maintenance_work_mem', {memory}, false)

-- name: reset
RESET ALL

-- name: state
-- Where an index of ours stands, and which backend is building on the table at the moment.
SELECT (SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = %(oid)s AND c.relname = %(name)s) AS valid,
       (SELECT p.pid FROM pg_stat_progress_create_index p WHERE p.relid = %(oid)s LIMIT 1) AS builder

-- name: progress
SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total
  FROM pg_stat_progress_create_index p
 WHERE p.relid = %(oid)s::oid OR p.relid IN (SELECT t.relid FROM pg_partition_tree(%(oid)s::oid) AS t)

-- name: analyze
-- The planner must know the new column before anybody searches it.
-- locks: SHARE UPDATE EXCLUSIVE on the table.   idempotent: yes.
ANALYZE {table} ({column})

-- name: memory
-- maintenance_work_mem in bytes.
SELECT pg_size_bytes(current_setting('maintenance_work_mem')) AS bytes
