-- The frame of every transaction that takes ACCESS EXCLUSIVE on the operator's table. It goes to the server as one
-- message, so a client that freezes or dies in the middle can't keep the lock (H15).

-- name: begin
-- synchronous_commit = local: a slow standby must not hold the lock through our COMMIT (H14); what is committed is
-- durable here, and replicas are waited for after the locks are gone.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL search_path = pg_catalog;
SET LOCAL row_security = off;
SET LOCAL synchronous_commit = local;
SET LOCAL idle_in_transaction_session_timeout = '300ms';
SET LOCAL statement_timeout = {statement_timeout};
SET LOCAL lock_timeout = {lock_timeout}

-- name: transaction_timeout
-- PostgreSQL 17: bounds the whole transaction, whatever it does.
SET LOCAL transaction_timeout = {transaction_timeout}

-- name: first_lock
-- Autovacuum yields to a waiter only after deadlock_timeout (1 s), so no lock_timeout of 500 ms ever gets through
-- while it runs (H12). This mode makes it leave, and makes no reader or writer wait.
-- locks: SHARE UPDATE EXCLUSIVE on the table, until commit.
SET LOCAL lock_timeout = '2s';
LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = {lock_timeout}

-- name: locks
-- One deadline for all locks together: what one of them waited is taken off the next (H15). Views first, from the
-- outside in, the table last: that is the order in which readers lock, so nobody deadlocks (H11). `ALTER ... OWNER TO`
-- its own owner locks a view alone, where LOCK TABLE would lock everything that it reads. Partitions come last and one by
-- one: a LOCK TABLE of all of them would wait for each as long as it may wait for the first.
-- locks: ACCESS EXCLUSIVE on views, table and partitions, until commit.
DO $locks$
DECLARE
  began timestamptz := clock_timestamp();
  allowed interval := {deadline};
  left_over interval;
  statements text[] := {statements};
  named CONSTANT int := cardinality(statements);
  turn int := 1;
BEGIN
  WHILE turn <= cardinality(statements) LOOP
    left_over := allowed - (clock_timestamp() - began);
    IF left_over <= interval '1 ms' THEN
      RAISE EXCEPTION 'migrator: no time left for the locks' USING ERRCODE = 'lock_not_available';
    END IF;
    PERFORM set_config('lock_timeout', ceil(extract(epoch FROM left_over) * 1000)::text || 'ms', true);
    EXECUTE statements[turn];
    IF turn = named THEN
      -- The table is locked, so no partition comes any more.
      statements := statements || ARRAY(
        SELECT format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', i.inhrelid::regclass)
          FROM pg_inherits AS i WHERE i.inhparent = {table_name}::regclass ORDER BY i.inhrelid);
    END IF;
    turn := turn + 1;
  END LOOP;
END
$locks$

-- name: view_locks
-- The statements that lock these views, outermost first as they are given.
SELECT format('ALTER VIEW %%I.%%I OWNER TO %%I', n.nspname, c.relname, pg_get_userbyid(c.relowner)) AS statement
  FROM unnest(%(oids)s::oid[]) WITH ORDINALITY AS o (oid, position)
  JOIN pg_class c ON c.oid = o.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY o.position

-- name: moment
-- Tells the time on the server as a NOTICE, which also survives a ROLLBACK: how long each step held the lock.
DO $moment$ BEGIN RAISE NOTICE 'migrator: % %', {step}, extract(epoch FROM clock_timestamp()); END $moment$

-- name: blockers
-- Who holds locks that ours has to wait for, also on partitions alone. Never their statement's text, which may quote a
-- row (P11), but its fingerprint: what pg_stat_statements calls it where the server reckons that, else a hash of the
-- text without its values. Of whom we may not see anything, there is none. A prepared transaction has no pid, and its
-- locks are known by its virtual transaction: what that looks like differs between versions, so its own lock tells it.
WITH wanted AS (
  SELECT unnest(%(oids)s::oid[]) AS oid
  UNION SELECT t.relid FROM unnest(%(oids)s::oid[]) AS o (oid), pg_partition_tree(o.oid) AS t
), held AS (
  SELECT l.pid, l.virtualtransaction FROM pg_locks l
   WHERE l.locktype = 'relation' AND l.granted AND l.relation IN (SELECT oid FROM wanted)
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT a.pid, coalesce(a.usename, '')::text AS role, coalesce(a.application_name, '') AS application,
       coalesce(a.state, '') AS state, coalesce(a.backend_type, '')::text AS kind,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float AS age_seconds,
       coalesce(a.query_id::text, CASE WHEN a.query NOT IN ('', '<insufficient privilege>') THEN
         left(md5(regexp_replace(regexp_replace(lower(a.query), '''(?:[^'']|'''')*(?:''|$)|\y[0-9][0-9.e]*\y',
                                                '?', 'g'), '\s+', ' ', 'g')), 12) END, '') AS query,
       a.xact_start AS since
  FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid() AND a.pid IN (SELECT pid FROM held)
UNION ALL
SELECT 0, p.owner::text, 'prepared transaction ' || p.gid, 'prepared', 'two-phase',
       extract(epoch FROM clock_timestamp() - p.prepared)::float, '', p.prepared
  FROM pg_prepared_xacts p
  JOIN pg_locks x ON x.locktype = 'transactionid' AND x.transactionid = p.transaction AND x.pid IS NULL
 WHERE p.database = current_database()
   AND x.virtualtransaction IN (SELECT virtualtransaction FROM held WHERE pid IS NULL)
 ORDER BY age_seconds DESC

-- name: backend
-- Whether a session of ours is still at it. One that is done, and has not heard that its client is gone, is ended: so
-- that nothing which is still on its way to it is ever run. Behind a pooler the client's pid is the pooler's own, so a
-- session that has begun is known by the mark that its message begins with, too.
SELECT a.state, CASE WHEN a.state = 'idle' THEN pg_terminate_backend(a.pid) END AS ended
  FROM pg_stat_activity a
 WHERE (a.pid = %(pid)s OR starts_with(a.query, %(mark)s)) AND a.pid <> pg_backend_pid() AND a.usename = session_user
   AND a.application_name = current_setting('application_name')

-- name: old_snapshots
-- Transactions that hold a snapshot from before a moment: they would read NULL in rows that were filled since.
SELECT a.pid, coalesce(a.usename, '')::text AS role, coalesce(a.application_name, '') AS application,
       coalesce(a.state, '') AS state, a.backend_type::text AS kind,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float AS age_seconds
  FROM pg_stat_activity a
 WHERE a.backend_xmin IS NOT NULL AND a.xact_start < %(moment)s AND a.pid <> pg_backend_pid()
   AND a.datname = current_database() AND a.backend_type = 'client backend'
 ORDER BY age_seconds DESC

-- name: unhurried
-- For a statement that takes as long as it takes and makes nobody wait.
SELECT set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false)

-- name: reset
RESET ALL
