-- What the catalog says about a target. All of it is read by a role that may do no more than SELECT.

-- name: relation
-- Of a partitioned table, pages, rows and bytes are those of its partitions together.
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, c.relpersistence::text AS persistence, c.relispartition AS is_partition,
       pg_relation_filenode(c.oid)::bigint AS file,
       coalesce(parts.bytes, pg_relation_size(c.oid)) / current_setting('block_size')::int AS pages,
       coalesce(parts.tuples, c.reltuples::bigint) AS estimated_rows, c.relrowsecurity AS row_security, c.relforcerowsecurity AS force_row_security,
       pg_has_role(c.relowner, 'MEMBER') AS is_owner, has_table_privilege(c.oid, 'SELECT') AS may_select,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid) AS inherits,
       (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS bypasses_rls,
       coalesce(parts.table_bytes, pg_table_size(c.oid)) AS table_bytes, c.relreplident::text AS replica_identity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (SELECT sum(pg_relation_size(l.oid))::bigint AS bytes, sum(pg_table_size(l.oid))::bigint AS table_bytes,
                            sum(greatest(l.reltuples, 0))::bigint AS tuples
                       FROM pg_partition_tree(c.oid) AS p JOIN pg_class l ON l.oid = p.relid
                      WHERE p.isleaf AND c.relkind = 'p') AS parts
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: heaps
-- The heaps that hold a table's rows: its own, or its partitions'. `level` 1 is a partition of the table itself.
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS table, c.relkind::text AS kind,
       pg_relation_filenode(c.oid)::bigint AS file,
       coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int AS pages, l.level,
       c.relpages AS counted_pages, c.reltuples::float8 AS tuples,
       has_table_privilege(c.oid, 'SELECT') AND NOT c.relrowsecurity AS may_read
  FROM (SELECT p.relid::oid AS oid, p.level::int FROM pg_partition_tree(%(oid)s::oid) AS p WHERE p.isleaf
        UNION SELECT r.oid, 0 FROM pg_class r WHERE r.oid = %(oid)s::oid AND r.relkind <> 'p') AS l
  JOIN pg_class c ON c.oid = l.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY c.oid

-- name: columns
SELECT a.attname::text AS name, a.attnum::int AS number, format_type(a.atttypid, NULL) AS type,
       format_type(a.atttypid, a.atttypmod) AS full_type, t.typname::text AS type_name, a.atttypmod AS modifier,
       a.attnotnull AS not_null, a.attgenerated <> '' AS generated, a.attidentity <> '' AS identity,
       a.atthasdef AS has_default, a.attacl IS NOT NULL AS has_grants,
       EXISTS (SELECT FROM aclexplode(a.attacl) AS g WHERE g.grantor <> c.relowner) AS granted_by_others,
       a.attstorage::text AS storage,
       t.typstorage::text AS type_storage, coalesce(a.attstattarget, -1)::int AS statistics_target,
       a.attcompression::text AS compression, a.attoptions IS NOT NULL AS has_options,
       col_description(a.attrelid, a.attnum) IS NOT NULL AS has_comment
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_class c ON c.oid = a.attrelid
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: unique_keys
-- Indexes that can serve as a key: unique, whole, immediate, on plain NOT NULL columns. The primary key first.
SELECT i.indisprimary AS is_primary,
       array_agg(a.attname::text ORDER BY k.position) AS columns,
       array_agg(format_type(a.atttypid, NULL) ORDER BY k.position) AS types
  FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, position)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
 WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indimmediate AND i.indisvalid
   AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts
 GROUP BY i.indexrelid, i.indisprimary
HAVING bool_and(a.attnotnull)
 ORDER BY i.indisprimary DESC, i.indexrelid

-- name: extension
SELECT e.extversion AS version, n.nspname::text AS schema
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'vector'

-- name: server
SELECT current_setting('server_version_num')::int AS version, current_setting('block_size')::int AS block_size,
       current_setting('maintenance_work_mem') AS maintenance_work_mem, pg_is_in_recovery() AS in_recovery,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema, current_user::text AS role,
       now() AS now, current_database()::text AS database,
       -- A role without pg_read_all_stats sees names alone. Logical subscribers replay no locks.
       ARRAY(SELECT coalesce(nullif(r.application_name, ''), 'unnamed') FROM pg_stat_replication AS r
              WHERE coalesce(r.state, 'streaming') = 'streaming'
                AND NOT EXISTS (SELECT FROM pg_replication_slots AS s
                                 WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
              ORDER BY 1) AS standbys

-- name: may_silence_triggers
-- session_replication_role keeps the users' own triggers from firing on our writes. The privilege can be granted
-- since PostgreSQL 15; before that it takes a superuser.
SELECT CASE WHEN current_setting('server_version_num')::int >= 150000
            THEN has_parameter_privilege('session_replication_role', 'SET')
            ELSE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) END AS may

-- name: triggers
-- The users' own row triggers, and those that partitions have of their own. type bits: 1 row, 2 before, 4 insert,
-- 8 delete, 16 update (pg_trigger.h).
SELECT t.tgname::text AS name, t.tgrelid::regclass::text AS table, (t.tgtype & 2) > 0 AS before,
       (t.tgtype & 4) > 0 AS on_insert, (t.tgtype & 16) > 0 AS on_update, t.tgenabled::text AS enabled
  FROM pg_trigger t
 WHERE NOT t.tgisinternal AND (t.tgtype & 1) > 0 AND t.tgname NOT LIKE '%%\_\_migrator'
   AND (t.tgrelid = %(oid)s
        OR (t.tgparentid = 0 AND t.tgrelid IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::oid) AS p)))
 ORDER BY 2, 1

-- name: our_leftovers
-- Anything on the table that carries our suffix.
SELECT 'column' AS kind, attname::text AS name FROM pg_attribute
 WHERE attrelid = %(oid)s AND NOT attisdropped AND attname LIKE '%%\_\_migrator'
UNION ALL
SELECT 'trigger', tgname::text FROM pg_trigger WHERE tgrelid = %(oid)s AND tgname LIKE '%%\_\_migrator' AND NOT tgisinternal
UNION ALL
SELECT 'index', c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %(oid)s AND c.relname LIKE '%%\_\_migrator'

-- name: builtin_functions
-- Which of these names are built in, and whether every form of them is immutable (H25).
SELECT p.proname::text AS name, bool_and(p.provolatile = 'i') AS immutable
  FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%(names)s)
 GROUP BY p.proname

-- name: try_expressions
-- The template and `where`, tried under the search_path that the trigger will have.
SELECT {text} AS body, {in_scope} AS in_scope FROM {table} AS t LIMIT 0
