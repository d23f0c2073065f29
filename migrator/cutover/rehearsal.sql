-- The rehearsal: one INSERT, UPDATE or DELETE on a row of the table, with every trigger, taken back before it ends.

-- name: standing
-- What the application's triggers find names by, as far as our own role's settings tell.
SELECT current_setting('search_path') AS path

-- name: begin
-- A rehearsal outside of expand: it waits for nobody longer than its deadline, and is one message, so a client that dies
-- leaves nothing open.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL idle_in_transaction_session_timeout = '300ms';
SET LOCAL lock_timeout = {lock_timeout};
SET LOCAL statement_timeout = {statement_timeout}

-- name: bound
-- Inside of expand: while the table is locked. A function whose plans this session made before the column came would go on
-- with them (`SELECT OLD.*` with the columns of then), where every new session of the application fails.
DISCARD PLANS;
SET LOCAL lock_timeout = {lock_timeout};
SET LOCAL statement_timeout = {statement_timeout}

-- name: rehearse
-- Triggers fire as they do for the application, the constraint triggers that wait for COMMIT too; then the block's own
-- savepoint is rolled back, and with it the rows, the hints, notifications and settings. The row is a copy of one that is
-- there, so NOT NULL columns and CHECKs are content. What no ROLLBACK takes back is a sequence's next value.
-- locks: one row of the table until the savepoint ends, and what its triggers lock.   idempotent: yes.
DO $rehearsal$
#variable_conflict use_column
DECLARE
  was record;
  context text;
BEGIN
  -- What it wrote is counted by the statistics although it is rolled back: at once, before anybody reads a baseline.
  IF to_regproc('pg_catalog.pg_stat_force_next_flush') IS NOT NULL THEN
    PERFORM pg_stat_force_next_flush();
  END IF;
  BEGIN
    PERFORM set_config('search_path', {search_path}, true), set_config('row_security', 'on', true);
    SELECT t.* INTO was FROM {table} AS t ORDER BY {order} LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'migrator: no row' USING ERRCODE = 'no_data_found';
    END IF;
    {script}
    SET CONSTRAINTS ALL IMMEDIATE;
    RAISE EXCEPTION 'migrator: rehearsed' USING ERRCODE = 'MG004';
  EXCEPTION
    WHEN SQLSTATE 'MG004' THEN NULL;
    WHEN lock_not_available OR deadlock_detected THEN RAISE;
    WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
      -- Never the message itself, which may quote a row (P11).
      RAISE EXCEPTION 'migrator: % % %', {operation}, SQLSTATE,
        coalesce(substring(context FROM 'PL/pgSQL function ([^[:space:]]+\([^()]*\))'), '') USING ERRCODE = 'MG005';
  END;
END
$rehearsal$

-- name: assign
-- A key that nobody has: the copy disturbs no unique index over it, and nothing refers to it.
was.{column} := {fresh};

-- name: insert
-- Part of a rehearsal.
INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values});

-- name: update
-- Part of a rehearsal: every column is named, for triggers that are bound to some.
UPDATE {table} AS t SET {assignments} WHERE {is_the_row};

-- name: delete
-- Part of a rehearsal.
DELETE FROM {table} AS t WHERE {is_the_row};
