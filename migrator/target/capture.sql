-- How live writes are seen, and how every vector ends up in the column of its own generation.
--
-- Words: the live column has the target's own name; the other column is the shadow. A session's generation is what it
-- declared (SET migrator.generation), else what its role was declared to write, else the old one. A session is native
-- when its generation is the live column's, foreign otherwise. What a native session does to the live column is its own
-- business, as it was before the migration. All else is ours: a vector that a new text makes stale becomes NULL and
-- dirty. A vector that was diverted, or written by a session that declared a generation, is noted in `written`: the
-- sentinel looks at it (H3).
-- Not where the generations' dimensions differ: there a vector tells itself which one it is of, whatever its session says,
-- and PostgreSQL keeps the other out of a column that is declared with dimensions, before any trigger. A vector and a
-- halfvec are compared as halfvecs, so an echo stays one: that is the only cast between them that needs no word.

-- name: on_update
-- BEFORE UPDATE. Source of the rules: hazards H1-H3, H6, H7, H20, H21.
-- locks: none of its own; one plain INSERT into migrator.dirty.   idempotent: yes.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $capture$
DECLARE
  live_generation CONSTANT text := {live_generation};
  said text := coalesce(nullif(current_setting('migrator.generation', true), ''), {by_role});
  declared text := coalesce(said, {from_generation});
  native boolean := declared = live_generation;
  wrote boolean := coalesce(NEW.{live} OPERATOR({vector_schema}.<>) OLD.{live},
                            (NEW.{live} IS NULL) <> (OLD.{live} IS NULL));
  text_differs boolean := {new_text} COLLATE "C" <> {old_text} COLLATE "C";
  key_differs boolean := {new_key} <> {old_key};
  was_in_scope boolean;
  is_in_scope boolean;
BEGIN
  -- Our own second half of a diverted INSERT.
  IF current_setting('migrator.internal', true) = 'divert' THEN
    RETURN NEW;
  END IF;
  IF declared NOT IN ({from_generation}, {to_generation}) THEN
    RAISE EXCEPTION 'migrator.generation is "%", and %.% knows only % and %', declared,
        TG_TABLE_SCHEMA, TG_TABLE_NAME, {from_generation}, {to_generation}
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Mend the declaration, or RESET migrator.generation.';
  END IF;
  -- A row that replication or a restore applies with both vectors is complete (H6).
  IF current_setting('session_replication_role') = 'replica' AND NEW.{shadow} IS NOT NULL
     AND (OLD.{shadow} IS NULL OR NEW.{shadow} OPERATOR({vector_schema}.<>) OLD.{shadow}) THEN
    RETURN NEW;
  END IF;
  -- The row's vector of the other generation, handed back by whoever read it before a swap, is an echo (H3).
  IF wrote AND NEW.{live} OPERATOR({vector_schema}.=) OLD.{shadow} THEN
    NEW.{live} := OLD.{live};
    wrote := false;
  END IF;
  IF wrote THEN
    NULL;
{told_by_dims}  END IF;
  was_in_scope := {old_in_scope};
  IF wrote AND NOT native THEN
    NEW.{shadow} := NEW.{live};
    NEW.{live} := OLD.{live};
    INSERT INTO migrator.strays (migration_id, generation, application, role)
    VALUES ({migration_id}, {shadow_generation}, coalesce(current_setting('application_name', true), ''), {who});
  ELSIF text_differs THEN
    NEW.{shadow} := NULL;
  END IF;
  -- Whatever a session says of itself, its vector may be of the other space: somebody looks at it later (H3).
  IF {watched} AND wrote AND (said IS NOT NULL OR NOT native)
     AND coalesce(current_setting('migrator.internal', true), '') <> 'landing'
     AND (CASE WHEN native THEN NEW.{live} ELSE NEW.{shadow} END) IS NOT NULL THEN
    INSERT INTO migrator.written (migration_id, side, key, application, role)
    VALUES ({migration_id}, CASE WHEN native THEN {live_side} ELSE {shadow_side} END, {new_key},
            coalesce(current_setting('application_name', true), ''), {who});
  END IF;
  IF text_differs AND NOT native THEN
{keep_not_null};
    NEW.{live} := NULL;
  END IF;
  -- A row whose vectors are to be taken back, since nobody saw them being written, stays one under its new key.
  IF key_differs THEN
    INSERT INTO migrator.unseen (migration_id, key)
    SELECT {migration_id}, {new_key}
     WHERE EXISTS (SELECT FROM migrator.unseen AS u WHERE u.migration_id = {migration_id} AND u.key = {old_key});
    -- And what it waits for: the old key's hints name nobody any more.
    INSERT INTO migrator.dirty (migration_id, side, key)
    SELECT DISTINCT {migration_id}, d.side, {new_key}
      FROM migrator.dirty AS d WHERE d.migration_id = {migration_id} AND d.key = {old_key};
  END IF;
  is_in_scope := {still_in_scope};
{let_go}  -- A row that leaves the scope keeps no new vector as long as nobody searches it; one that enters gets one.
  IF was_in_scope AND NOT is_in_scope AND live_generation = {from_generation} THEN
    NEW.{shadow} := NULL;
  END IF;
{take_up}  IF is_in_scope AND (text_differs OR key_differs OR NOT was_in_scope OR (wrote AND NOT native)) THEN
    IF NEW.{shadow} IS NULL THEN
      INSERT INTO migrator.dirty (migration_id, side, key) VALUES ({migration_id}, {shadow_side}, {new_key});
    END IF;
    -- Nobody writes the vector of a row that comes back into the scope: its text is the old one.
    IF NEW.{live} IS NULL AND (NOT native OR (NOT was_in_scope AND live_generation = {to_generation})) THEN
      INSERT INTO migrator.dirty (migration_id, side, key) VALUES ({migration_id}, {live_side}, {new_key});
    END IF;
  END IF;
{mark_move}  RETURN NEW;
END
$capture$

-- name: let_go
-- Part of on_update under `only_embedded`: of a row whose vector a native session takes away, nothing is owed any more.
  IF native AND wrote AND NEW.{live} IS NULL AND NOT is_in_scope THEN
    -- SKIP LOCKED: whoever settles it just now waits for nobody here, nor we for him.
    DELETE FROM migrator.dirty AS d WHERE d.id IN (
      SELECT h.id FROM migrator.dirty AS h
       WHERE h.migration_id = {migration_id} AND h.key IN ({old_key}, {new_key}) FOR UPDATE SKIP LOCKED);
    DELETE FROM migrator.parked AS p WHERE p.migration_id = {migration_id} AND p.key IN ({old_key}, {new_key});
  END IF

-- name: take_up
-- Part of on_update under `only_embedded` with a `where`. A row outside of it whose last vector an edit took, and one that
-- waited when it left (catch-up parks it), waits again when it comes back; a new key takes along what is parked.
  IF NOT {in_where} AND {had_vector} AND NOT {has_vector} AND NOT (native AND wrote) THEN
    INSERT INTO migrator.parked (migration_id, key, side)
    VALUES ({migration_id}, {new_key}, {live_side}), ({migration_id}, {new_key}, {shadow_side}) ON CONFLICT DO NOTHING;
  END IF;
  -- Catch-up may be parking it just now, unseen: the hint that it settles there is still seen, and a copy outlives it.
  IF {in_where} AND NOT {was_in_where} AND NOT {has_vector} THEN
    INSERT INTO migrator.dirty (migration_id, side, key)
    SELECT DISTINCT {migration_id}, d.side, {new_key}
      FROM migrator.dirty AS d WHERE d.migration_id = {migration_id} AND d.key = {old_key};
  END IF;
  IF {in_where} OR key_differs THEN
    WITH taken AS (
      DELETE FROM migrator.parked AS p WHERE p.migration_id = {migration_id} AND p.key IN ({old_key}, {new_key})
      RETURNING p.side),
    kept AS (
      INSERT INTO migrator.parked (migration_id, key, side)
      SELECT DISTINCT {migration_id}, {new_key}, t.side FROM taken AS t WHERE NOT {in_where} ON CONFLICT DO NOTHING)
    INSERT INTO migrator.dirty (migration_id, side, key)
    SELECT DISTINCT {migration_id}, t.side, {new_key} FROM taken AS t WHERE {in_where};
  END IF

-- name: keep_not_null
-- A piece of both: where the live vector is about to go, says why it can't (H23).
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = TG_RELID AND attname = {live_name} AND attnotnull) THEN
      RAISE EXCEPTION '%.% is NOT NULL until the swap, so a writer of % can not bring rows or texts before it',
          TG_TABLE_NAME, {live_name}, declared
        USING ERRCODE = 'not_null_violation',
              HINT = 'Deploy it after the swap, or drop NOT NULL for the time of the migration.';
    END IF

-- name: told_by_dims
-- A piece of all three, where the dimensions differ.
  native := CASE {vector_schema}.vector_dims(NEW.{live}) WHEN {live_dims} THEN true WHEN {shadow_dims} THEN false ELSE native END

-- name: on_insert
-- BEFORE INSERT: only tags. EXCLUDED shows what this leaves, so a foreign vector is copied to its own column and
-- stays in the live one until the row is really there (H1); `on_inserted` then takes it away.
-- locks: none.   idempotent: yes.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $capture$
DECLARE
  live_generation CONSTANT text := {live_generation};
  declared text := coalesce(nullif(current_setting('migrator.generation', true), ''), {by_role}, {from_generation});
  native boolean := declared = live_generation;
  moving text := current_setting('migrator.moving', true);
BEGIN
  IF declared NOT IN ({from_generation}, {to_generation}) THEN
    RAISE EXCEPTION 'migrator.generation is "%", and %.% knows only % and %', declared,
        TG_TABLE_SCHEMA, TG_TABLE_NAME, {from_generation}, {to_generation}
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Mend the declaration, or RESET migrator.generation.';
  END IF;
  IF current_setting('session_replication_role') = 'replica' AND NEW.{shadow} IS NOT NULL THEN
    RETURN NEW;
  END IF;
  -- The second half of a row's move between partitions is no write (H2): the UPDATE half left its key.
  IF moving = {new_key}::text THEN
    PERFORM set_config('migrator.moving', '', true);
    RETURN NEW;
  END IF;
{told_by_dims}  IF native THEN
    NEW.{shadow} := NULL;
  ELSE
    NEW.{shadow} := NEW.{live};
  END IF;
  RETURN NEW;
END
$capture$

-- name: on_inserted
-- AFTER INSERT: the row is there. Takes a foreign vector out of the live column, and marks what is missing.
-- locks: the row that was just inserted.   idempotent: yes.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $capture$
DECLARE
  live_generation CONSTANT text := {live_generation};
  said text := coalesce(nullif(current_setting('migrator.generation', true), ''), {by_role});
  declared text := coalesce(said, {from_generation});
  native boolean := declared = live_generation;
  diverted boolean := false;
BEGIN
{told_by_dims}  IF NOT native AND NEW.{live} OPERATOR({vector_schema}.=) NEW.{shadow} THEN
{keep_not_null};
    PERFORM set_config('migrator.internal', 'divert', true);
    UPDATE {table} AS t SET {live} = NULL WHERE {key_is_new};
    PERFORM set_config('migrator.internal', '', true);
    NEW.{live} := NULL;
    diverted := true;
    INSERT INTO migrator.strays (migration_id, generation, application, role)
    VALUES ({migration_id}, {shadow_generation}, coalesce(current_setting('application_name', true), ''), {who});
  END IF;
  IF NEW.{shadow} IS NOT NULL AND NEW.{live} IS NOT NULL THEN
    RETURN NULL;
  END IF;
  IF {watched} AND (diverted OR (native AND said IS NOT NULL AND NEW.{live} IS NOT NULL)) THEN
    INSERT INTO migrator.written (migration_id, side, key, application, role)
    VALUES ({migration_id}, CASE WHEN native THEN {live_side} ELSE {shadow_side} END, {new_key},
            coalesce(current_setting('application_name', true), ''), {who});
  END IF;
  IF {new_in_scope} THEN
    IF native AND NEW.{shadow} IS NULL THEN
      INSERT INTO migrator.dirty (migration_id, side, key) VALUES ({migration_id}, {shadow_side}, {new_key});
    ELSIF NOT native AND NEW.{live} IS NULL THEN
      INSERT INTO migrator.dirty (migration_id, side, key) VALUES ({migration_id}, {live_side}, {new_key});
    END IF;
  END IF;
  RETURN NULL;
END
$capture$

-- name: mark_move
-- On a partitioned table, part of on_update: a new key may mean a new partition, whose INSERT is no write (H2). The
-- partition's columns are always part of the key, so no row moves without this.
  IF key_differs THEN
    PERFORM set_config('migrator.moving', {new_key}::text, true);
  END IF;

-- name: on_insert_statement
-- BEFORE INSERT, for each statement, on a partitioned table: an INSERT of the application's own is never the second
-- half of a move (a move fires no statement trigger), so what an earlier UPDATE left is forgotten.
-- locks: none.   idempotent: yes.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $capture$
BEGIN
  PERFORM set_config('migrator.moving', '', true);
  RETURN NULL;
END
$capture$

-- name: trigger_update
-- WHEN keeps irrelevant updates from calling the function at all: they pay for a comparison. citext would hide a
-- case edit, so texts are compared as bytes. WHEN is bound to column numbers, so after a swap it would watch the
-- wrong vector: the swap makes the trigger anew.
-- locks: SHARE ROW EXCLUSIVE on the table, until commit.   idempotent: yes.
CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {function}()

-- name: trigger_insert
-- locks: SHARE ROW EXCLUSIVE on the table, until commit.   idempotent: no.
CREATE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()

-- name: trigger_inserted
-- locks: SHARE ROW EXCLUSIVE on the table, until commit.   idempotent: no.
CREATE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()

-- name: trigger_insert_statement
-- locks: SHARE ROW EXCLUSIVE on the table, until commit.   idempotent: no.
CREATE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: enable_always
-- Logical apply and some restores run with session_replication_role = replica, where plain triggers sleep.
-- locks: SHARE ROW EXCLUSIVE on the table, until commit.   idempotent: yes.
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}

-- name: enable_always_below
-- On a partitioned table, the same for the clones that its partitions have: before PostgreSQL 15 the statement above does
-- not reach them.
-- locks: SHARE ROW EXCLUSIVE on the partitions, until commit.   idempotent: yes.
DO $below$
DECLARE
  leaf regclass;
BEGIN
  FOR leaf IN SELECT p.relid FROM pg_partition_tree({table_name}::regclass) AS p WHERE p.isleaf LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', leaf, {trigger_name});
  END LOOP;
END
$below$

-- name: blank
-- Each row goes as the application wants it. What is replaced is the function, so no lock on the table is waited for.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $blank$ BEGIN RETURN NEW; END $blank$

-- name: drop_trigger
-- locks: ACCESS EXCLUSIVE on the table, until commit.   idempotent: yes.
DROP TRIGGER IF EXISTS {trigger} ON {table}

-- name: drop_function
-- idempotent: yes.
DROP FUNCTION IF EXISTS {function}()

-- name: keep_private
-- The triggers need no EXECUTE of the application's role; nobody else has business with them.
-- idempotent: yes.
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC
