-- The shadow column's indexes: the live column's, once more.

-- name: build
-- locks: SHARE UPDATE EXCLUSIVE on the table for the whole build: writers go on, autovacuum waits. Pins the xmin
-- horizon as long as it lasts (H18).   idempotent: no: look for a valid or building one first.
CREATE INDEX CONCURRENTLY {name} ON {table} USING {definition}

-- name: build_parent
-- On a partitioned table the index itself is only a name, which becomes valid when every partition's is attached.
-- locks: SHARE on the partitioned table alone, for a moment, with a lock_timeout.   idempotent: no.
CREATE INDEX {name} ON ONLY {table} USING {definition}

-- name: attach
-- locks: SHARE UPDATE EXCLUSIVE on the partitioned index, ACCESS EXCLUSIVE on the part's, for a moment.   idempotent: yes.
ALTER INDEX {parent} ATTACH PARTITION {index}

-- name: parts
-- The partitions' own indexes that belong to a partitioned index, by the table that they are on. Each may have storage
-- parameters and a tablespace of its own: `definition` is what stands behind USING, as in dependents.sql.
SELECT x.indrelid::bigint AS heap_oid, n.nspname::text AS schema, c.relname::text AS name, t.spcname::text AS tablespace,
       substr(pg_get_indexdef(c.oid),
              length(format('CREATE INDEX %%I ON %%s USING ', c.relname, x.indrelid::regclass)) + 1) AS definition
  FROM pg_inherits h JOIN pg_index x ON x.indexrelid = h.inhrelid
  JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
 WHERE h.inhparent = (SELECT i.indexrelid FROM pg_index i JOIN pg_class p ON p.oid = i.indexrelid
                       WHERE i.indrelid = %(oid)s::oid AND p.relname = %(name)s)

-- name: drop
-- locks: SHARE UPDATE EXCLUSIVE on the table, shortly.   idempotent: yes.
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: room
-- What the server allows a build as it stands.
SELECT pg_size_bytes(current_setting('maintenance_work_mem')) AS memory_bytes,
       current_setting('max_parallel_maintenance_workers')::int AS workers

-- name: session
-- A build takes as long as it takes, and a lock_timeout would leave it INVALID (H18). A table of vectors is small to the
-- planner, since they lie in its TOAST table: with min_parallel_table_scan_size = 0 it gets its workers all the same, and
-- nothing has to be set on the table and taken back.
SELECT set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false),
       set_config('search_path', 'pg_catalog', false), set_config('application_name', {application}, false),
       set_config('maintenance_work_mem', {memory}, false), set_config('default_tablespace', {tablespace}, false),
       set_config('min_parallel_table_scan_size', '0', false),
       set_config('max_parallel_maintenance_workers', {workers}, false)

-- name: tablespace
-- The same for a statement of a transaction.
SELECT set_config('default_tablespace', {tablespace}, true)

-- name: reset
RESET ALL

-- name: state
-- Where an index of ours stands, and which backend is at work: ours by its application_name and role, whatever it does
-- (also while it waits for its first lock, when it shows no progress yet); somebody else only where it is this very index
-- that they build. What others build on the same table is no business of ours.
WITH twin AS (
  SELECT i.indexrelid, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
   WHERE i.indrelid = %(oid)s AND c.relname = %(name)s)
SELECT (SELECT t.indisvalid FROM twin t) AS valid,
       coalesce((SELECT a.pid FROM pg_stat_activity a
                  WHERE a.datname = current_database() AND a.usename = current_user AND a.backend_type = 'client backend'
                    AND a.application_name = %(who)s AND a.state <> 'idle' AND a.pid <> pg_backend_pid() LIMIT 1),
                (SELECT p.pid FROM pg_stat_progress_create_index p JOIN twin t ON t.indexrelid = p.index_relid
                  LIMIT 1)) AS builder

-- name: cancel
-- Ends what our own backends of that name are at; returns how many there are.
SELECT count(*) FILTER (WHERE pg_cancel_backend(a.pid))::int AS cancelled FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.usename = current_user AND a.backend_type = 'client backend'
   AND a.application_name = %(who)s AND a.state <> 'idle' AND a.pid <> pg_backend_pid()

-- name: leftovers
-- INVALID indexes of ours on the table and its partitions that no backend builds. A partitioned index is only a name.
SELECT n.nspname::text AS schema, c.relname::text AS name
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND c.relname LIKE '%%\_\_migrator'
   AND (i.indrelid = %(oid)s::oid OR i.indrelid IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::oid) AS p))
   AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)

-- name: columns
-- The table's columns that an index hangs on, whether by a key, an expression or its predicate.
SELECT DISTINCT a.attname::text AS name
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
 WHERE i.indrelid = %(oid)s AND c.relname = %(name)s

-- name: hurried
SELECT set_config('lock_timeout', '2s', false), set_config('statement_timeout', '2s', false)

-- name: progress
-- Ours before somebody else's. Partitions by pg_inherits: pg_partition_tree would open them, behind an ALTER TABLE, too.
WITH RECURSIVE tree AS (
  SELECT %(oid)s::oid AS oid UNION SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total, c.relname::text AS name,
       coalesce(a.usename = current_user AND starts_with(a.application_name, 'migrator index '), false) AS ours
  FROM pg_stat_progress_create_index p LEFT JOIN pg_stat_activity a ON a.pid = p.pid
  LEFT JOIN pg_class c ON c.oid = p.index_relid
 WHERE p.relid IN (SELECT t.oid FROM tree AS t)
 ORDER BY ours DESC LIMIT 1

-- name: analyze
-- The planner must know the new column before anybody searches it.
-- locks: SHARE UPDATE EXCLUSIVE on the table.   idempotent: yes.
ANALYZE {table} ({column})

-- name: prewarm_with
-- The schema of pg_prewarm where it is installed and we may call it, and whether the index takes less than half of
-- shared_buffers: a larger one is read into the system's cache alone, or it would push everything else out.
SELECT n.nspname::text AS schema,
       CASE WHEN pg_relation_size(%(index)s::regclass) < s.setting::bigint * pg_size_bytes(s.unit) / 2
            THEN 'buffer' ELSE 'read' END AS mode
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_extension e ON e.extname = 'pg_prewarm',
       pg_settings s
 WHERE p.proname = 'pg_prewarm' AND p.pronamespace = e.extnamespace AND s.name = 'shared_buffers'
   AND has_function_privilege(p.oid, 'EXECUTE')

-- name: prewarm
SELECT {prewarm}({index}::regclass, {mode})
