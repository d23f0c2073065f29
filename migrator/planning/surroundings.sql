-- What a plan looks at around the table: settings, other sessions, slots. All of it by a role that may do no more than
-- SELECT; what only a monitor may see is empty for others.

-- name: settings
-- locks: none.   idempotent: yes.
SELECT current_setting('autovacuum') AS autovacuum, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('default_transaction_read_only') AS read_only, current_setting('wal_level') AS wal_level,
       pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance_work_mem,
       pg_size_bytes(current_setting('effective_cache_size')) AS effective_cache_size,
       current_setting('autovacuum_freeze_max_age')::bigint AS freeze_max_age,
       pg_backend_pid() AS pid, extract(epoch FROM clock_timestamp())::float8 AS clock,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_others,
       to_regnamespace('migrator') IS NOT NULL AS has_schema,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') FROM pg_namespace AS n WHERE n.nspname = %(schema)s), true)
         AS may_use_schema,
       (SELECT pg_get_userbyid(n.nspowner)::text FROM pg_namespace AS n WHERE n.nspname = 'migrator') AS state_owner,
       coalesce((SELECT r.rolsuper FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner WHERE n.nspname = 'migrator'), false)
         AS state_owner_is_superuser,
       coalesce((SELECT pg_has_role(n.nspowner, 'MEMBER') FROM pg_namespace AS n WHERE n.nspname = 'migrator'), true)
         AS owns_state,
       pg_database_size(current_database())::bigint AS database_bytes,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - (SELECT coalesce(sum(d.numbackends), 0) FROM pg_stat_database AS d)::int
         + (SELECT count(*) FROM pg_stat_activity AS a WHERE starts_with(a.application_name, 'migrator '))::int AS free_connections,
       (SELECT a.last_failed_time > coalesce(a.last_archived_time, '-infinity') FROM pg_stat_archiver AS a) AS archiver_fails,
       (SELECT n.nspname::text FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
         WHERE e.extname = 'pg_stat_statements') AS statements_in

-- name: table_around
-- `may_create`: an index lies in its table's schema, where who builds it must be allowed to create: this role where it is
-- a member of the owner, else the owner, whose member it has to become.
-- locks: none.   idempotent: yes.
SELECT pg_get_userbyid(c.relowner)::text AS owner,
       coalesce((SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = c.relowner), false) AS owner_is_superuser,
       c.relreplident::text AS replica_identity,
       has_schema_privilege(CASE WHEN pg_has_role(c.relowner, 'MEMBER') THEN current_user ELSE pg_get_userbyid(c.relowner) END,
                            c.relnamespace, 'CREATE') AS may_create,
       (SELECT max(age(l.relfrozenxid)) FROM pg_class AS l
         WHERE l.relkind = 'r' AND l.oid IN (SELECT c.oid UNION SELECT p.relid::oid FROM pg_partition_tree(c.oid) AS p)) AS frozen_age,
       ARRAY(SELECT i.indexrelid::regclass::text FROM pg_index AS i JOIN pg_attribute AS a
                 ON a.attrelid = i.indrelid AND a.attname = %(column)s
              WHERE i.indrelid = c.oid AND NOT i.indisvalid AND NOT a.attnum = ANY(i.indkey::int2[]) ORDER BY 1) AS invalid_indexes
  FROM pg_class AS c WHERE c.oid = %(oid)s

-- name: slots
-- locks: none.   idempotent: yes.
SELECT s.slot_name::text AS name, s.slot_type AS type, s.active,
       coalesce(s.database = current_database(), false) AND s.slot_type = 'logical' AS decodes_us, s.xmin IS NOT NULL AS holds_rows,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END AS kept_bytes
  FROM pg_replication_slots AS s WHERE s.restart_lsn IS NOT NULL ORDER BY 1

-- name: event_triggers
-- Event triggers that fire on DDL, as ours is. locks: none.   idempotent: yes.
SELECT e.evtname::text AS name FROM pg_event_trigger AS e
 WHERE e.evtenabled <> 'D' AND e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop') ORDER BY 1

-- name: isolation
-- Where somebody gets another default isolation than READ COMMITTED. locks: none.   idempotent: yes.
SELECT coalesce(r.rolname, 'every role')::text AS role, c.setting
  FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole
  LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
 CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
 WHERE (s.setdatabase = 0 OR d.datname = current_database())
   AND c.setting ~* '^default_transaction_isolation=(repeatable read|serializable)$' ORDER BY 1

-- name: by_position
-- Statements over the table that take its columns as they stand: counted by kind, no text of any leaves the server.
-- locks: none.   idempotent: yes.
SELECT k.kind, count(*)::bigint AS statements, sum(s.calls)::bigint AS calls
  FROM {statements} AS s
 CROSS JOIN LATERAL (VALUES
   ('INSERT without a column list', '\minsert\s+into\s+' || %(name)s || '\s+(as\s+\w+\s+)?(values|select|table|with)\M'),
   ('COPY without a column list', '\mcopy\s+' || %(name)s || '\s+(from|to)\M'),
   ('SELECT *', '\mselect\s+(\w+\s*\.\s*)?\*.*\s(from|join)\s+(only\s+)?' || %(name)s || '($|[\s,;)])')) AS k (kind, pattern)
 WHERE s.dbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AND s.query ~* k.pattern
 GROUP BY k.kind ORDER BY 1
