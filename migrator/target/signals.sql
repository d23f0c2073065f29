-- What the server and the table say of their own health. Each statement is read-only, takes no lock worth the name, and
-- says where the role may not see what it asks for. Our own sessions are told by role and application_name.

-- name: table_oid
-- The table, without the lock that asking for its size would take: who waits behind an ALTER TABLE can't warn of it.
SELECT c.oid::bigint AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: replica_lag
-- The physical standby that is furthest behind in replay, and where WAL stands now. `mark` is a position that WAL had at
-- the last reading: a standby that has not replayed it is behind by at least the time since, whatever it reports.
SELECT coalesce(s.application_name, '') AS standby, s.state IS NULL AS hidden,
       coalesce(extract(epoch FROM s.replay_lag), 0)::float8 AS seconds,
       coalesce(s.replay_lsn < %(mark)s::pg_lsn, false) AS behind_mark,
       pg_current_wal_lsn()::text AS position, extract(epoch FROM clock_timestamp())::float8 AS now
  FROM pg_stat_replication s
  LEFT JOIN pg_replication_slots r ON r.active_pid = s.pid
 WHERE coalesce(r.slot_type, 'physical') = 'physical' AND coalesce(s.state, '') <> 'backup'
 ORDER BY hidden DESC, behind_mark DESC, seconds DESC
 LIMIT 1

-- name: archive_backlog
-- Finished WAL segments that wait for the archiver: from the one that failed last, or the one after the last archived,
-- up to the current one. Needs no privilege, where counting .ready files would.
-- source: GitLab, health_status/indicators/write_ahead_log.rb (current segment minus last_archived_wal).
SELECT current_setting('archive_mode') <> 'off' AS archives, a.failed_count > 0 AND a.waits AS fails,
       greatest(a.segment - coalesce(
         CASE WHEN a.oldest ~ '^[0-9A-F]{{24}}'
              THEN ('x' || substr(a.oldest, 9, 8))::bit(32)::bigint * (4294967296 / a.size)
                 + ('x' || substr(a.oldest, 17, 8))::bit(32)::bigint + CASE WHEN a.waits THEN 0 ELSE 1 END
         END, a.segment), 0) AS segments
  FROM (SELECT s.failed_count, s.last_failed_time > coalesce(s.last_archived_time, '-infinity') AS waits,
               CASE WHEN s.last_failed_time > coalesce(s.last_archived_time, '-infinity')
                    THEN s.last_failed_wal ELSE s.last_archived_wal END AS oldest,
               pg_size_bytes(current_setting('wal_segment_size')) AS size,
               floor(pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')
                     / pg_size_bytes(current_setting('wal_segment_size')))::bigint AS segment
          FROM pg_stat_archiver s) AS a

-- name: horizon
-- Who holds back pruning in this database, ourselves (and our index build, which pins xmin too, H18) left out: sessions
-- with their transaction's age, prepared transactions (H29), replication slots and standbys with hot_standby_feedback.
-- `name` is what people call it: an application's own name, a prepared transaction's.
SELECT h.kind, h.name, h.who, h.seconds, h.xids
  FROM (SELECT 'session' AS kind, coalesce(nullif(a.application_name, ''), 'pid ' || a.pid) AS name,
               'pid ' || a.pid || coalesce(', ' || nullif(a.application_name, ''), '') AS who,
               extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
               age(coalesce(a.backend_xmin, a.backend_xid)) AS xids
          FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
           AND coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL AND a.backend_type <> 'autovacuum worker'
           AND NOT (a.usename = current_user AND starts_with(a.application_name, 'migrator '))
        UNION ALL
        SELECT 'prepared', p.gid, 'prepared transaction', extract(epoch FROM clock_timestamp() - p.prepared)::float8, age(p.transaction)
          FROM pg_prepared_xacts p WHERE p.database = current_database()
        UNION ALL
        SELECT 'slot', s.slot_name, 'replication slot ' || s.slot_name, NULL, age(s.xmin)
          FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
        UNION ALL
        SELECT 'standby', r.application_name, 'standby ' || r.application_name, NULL, age(r.backend_xmin)
          FROM pg_stat_replication r WHERE r.backend_xmin IS NOT NULL) AS h
 ORDER BY h.seconds DESC NULLS LAST, h.xids DESC

-- name: hidden_sessions
-- Whether this role may see how old the transactions of others are (role pg_read_all_stats, a part of pg_monitor).
SELECT NOT pg_has_role('pg_read_all_stats', 'USAGE')
       AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = current_database() AND a.usesysid IS NOT NULL
                      AND NOT pg_has_role(a.usesysid, 'USAGE')) AS hidden, current_user::text AS role

-- name: lock_waiters
-- Sessions of others that have been waiting for a lock on the table or a partition of it, or on a row of it. The tree is
-- read from pg_inherits here and below: pg_partition_tree would lock the partitions.
WITH RECURSIVE tree AS (
  SELECT %(oid)s::oid AS oid UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT count(*)::int AS waiters, min(l.pid) AS pid,
       coalesce(extract(epoch FROM clock_timestamp() - min(l.waitstart)), 0)::float8 AS seconds
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.relation IN (SELECT t.oid FROM tree t) AND NOT l.granted
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND l.waitstart < clock_timestamp() - make_interval(secs => %(wait)s)
   AND NOT (a.usename = current_user AND starts_with(a.application_name, 'migrator '))

-- name: vacuum
-- A vacuum at work on the table, its partitions or their TOAST tables. Without pg_read_all_stats the table is not told:
-- `hidden`.
WITH RECURSIVE tree AS (
  SELECT %(oid)s::oid AS oid UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT p.relid IS NULL AS hidden, p.pid, p.phase,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS seconds
  FROM pg_stat_progress_vacuum p LEFT JOIN pg_stat_activity a ON a.pid = p.pid
 WHERE p.datname = current_database()
   AND (p.relid IS NULL OR p.relid IN (SELECT t.oid FROM tree t)
        OR p.relid IN (SELECT c.reltoastrelid FROM tree t JOIN pg_class c ON c.oid = t.oid))
 ORDER BY hidden DESC, seconds DESC
 LIMIT 1

-- name: writes
-- The counters of the table and its partitions, what their pages allow, and whether our own index build is under way. By
-- the functions under pg_stat_all_tables, which joins what nobody asks for here. A crash, a restore or a reset empties the
-- counters and leaves reltuples, which knew the dead as living ones: else 20,000 dead rows of ten million looked like
-- 20,000 to one, too few for autovacuum to mend that, and a migration waited for ever. An analysed partitioned table's
-- own reltuples are its partitions' once more.
WITH RECURSIVE tree AS (
  SELECT %(oid)s::oid AS oid UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT sum(pg_stat_get_tuples_updated(c.oid))::bigint AS updates,
       sum(pg_stat_get_tuples_hot_updated(c.oid))::bigint AS hot_updates,
       sum(pg_stat_get_dead_tuples(c.oid))::bigint AS dead_rows,
       sum(greatest(pg_stat_get_live_tuples(c.oid), c.reltuples - pg_stat_get_dead_tuples(c.oid), 0))
         FILTER (WHERE c.relkind <> 'p')::bigint AS live_rows,
       coalesce(greatest(1 - sum(c.relpages) FILTER (WHERE c.reltuples > 0 AND c.relkind <> 'p')
                             / nullif(sum(c.reltuples) FILTER (WHERE c.reltuples > 0 AND c.relkind <> 'p'), 0), 0), 0
       )::float8 AS ceiling,
       EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid IN (SELECT t.oid FROM tree t)) AS building
  FROM tree t JOIN pg_class c ON c.oid = t.oid
HAVING count(*) > 0

-- name: database_size
SELECT pg_database_size(current_database())::float8 AS bytes
