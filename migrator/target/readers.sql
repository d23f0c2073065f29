-- What applications call. Installed by `migrator init`; kept after cleanup.
--
-- Each is pinned, as the triggers' functions are: pg_temp stands last, or a session's own temporary types and tables would
-- come before PostgreSQL's (CVE-2007-2138). `query_vector` is called for every search, and a pinned path costs each call:
-- it names what it uses instead.

-- name: side_of_target
-- The generation of one target as a constant, replaced in the swap's own transaction: so that a statement sees the
-- function and the column out of the same catalog, whatever its snapshot (H9, H10).
-- locks: none on the table.   idempotent: yes.
CREATE OR REPLACE FUNCTION {function}(OUT side text, OUT generation text)
LANGUAGE sql STABLE PARALLEL SAFE AS {body}

-- name: live_row
-- Look a target's constant up by name: dynamic on purpose, so that no plan keeps an old one.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.live_row(target text, column_name text, OUT side text, OUT generation text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $live$
DECLARE
  parts text[] := parse_ident(target);
  function_name text;
BEGIN
  IF cardinality(parts) = 1 THEN
    parts := ARRAY['public'] || parts;
  END IF;
  function_name := 'side_' || substr(md5(parts[1] || '.' || parts[2] || '.' || column_name), 1, 24);
  IF to_regprocedure(format('migrator.%I()', function_name)) IS NULL THEN
    RAISE EXCEPTION 'migrator knows no target %.%', target, column_name
      USING ERRCODE = 'undefined_object', HINT = 'Write it as in the spec: ''schema.table'', ''column''.';
  END IF;
  EXECUTE format('SELECT s.side, s.generation FROM migrator.%I() AS s', function_name) INTO side, generation;
END
$live$

-- name: live_generation
-- The generation that readers must embed their queries with now.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.live_generation(target text, column_name text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT r.generation FROM migrator.live_row($1, $2) AS r $$

-- name: query_vector
-- The one of two query vectors that fits the column as this statement sees it. Call it inside the searching
-- statement: a value fetched before may be of the other generation by the time it is used (H9).
-- Of two types it is a `vector`: beside a halfvec column that becomes a halfvec by itself, and either index is used.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.query_vector(target text, column_name text, old_vector {old}, new_vector {new})
RETURNS {type} LANGUAGE plpgsql STABLE PARALLEL SAFE AS $query$
BEGIN
  IF (SELECT r.side FROM migrator.live_row(target, column_name) AS r) OPERATOR(pg_catalog.=) 'to' THEN
    RETURN new_vector;
  END IF;
  RETURN old_vector;
END
$query$

-- name: never_moved
-- Whether this is a vector column that no migration has touched yet. What is no table's own column of that name is not:
-- a misspelt target, a view and a partition stay unknown.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.never_moved(target text, column_name text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $moved$
DECLARE
  parts text[] := parse_ident(target);
BEGIN
  IF cardinality(parts) = 1 THEN
    parts := ARRAY['public'] || parts;
  END IF;
  IF to_regprocedure('migrator.side_' || substr(md5(parts[1] || '.' || parts[2] || '.' || column_name), 1, 24) || '()')
     IS NOT NULL THEN
    RETURN false;
  END IF;
  RETURN EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
     WHERE n.nspname = parts[1] AND c.relname = parts[2] AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND a.attname = column_name AND NOT a.attisdropped AND t.typname IN ('vector', 'halfvec'));
END
$moved$

-- name: query_vector_of
-- The same by name: the vector of the generation that is live, and an error where it was not sent, never another one. So
-- a caller whose knowledge is old fails loudly. `initial` is what the column held before its first migration.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.query_vector(
  target text, column_name text, generations text[], vectors anyarray, initial text DEFAULT NULL)
RETURNS anyelement LANGUAGE plpgsql STABLE PARALLEL SAFE AS $query$
DECLARE
  live pg_catalog.text := initial;
  place pg_catalog.int4;
BEGIN
  IF initial IS NULL OR NOT migrator.never_moved(target, column_name) THEN
    live := (SELECT r.generation FROM migrator.live_row(target, column_name) AS r);
  END IF;
  place := pg_catalog.array_position(generations, live);
  IF place IS NULL OR vectors[place] IS NULL THEN
    RAISE EXCEPTION '%.% is searched with vectors of %, and none of them was sent', target, column_name, live
      USING ERRCODE = 'MG010', HINT = 'Embed the query with that model too, and search again.';
  END IF;
  RETURN vectors[place];
END
$query$

-- name: generations
-- What readers must be able to embed queries with, the live one first: both while a swap, or a swap back, is possible;
-- one otherwise; none where no migration has begun yet. The definer reads our tables, the caller needs no right on them.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.generations(target text, column_name text) RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $generations$
DECLARE
  parts text[] := parse_ident(target);
  live text;
  other text;
BEGIN
  IF cardinality(parts) = 1 THEN
    parts := ARRAY['public'] || parts;
  END IF;
  IF migrator.never_moved(target, column_name) THEN
    RETURN '{{}}';
  END IF;
  live := migrator.live_generation(target, column_name);
  SELECT CASE WHEN m.from_generation = live THEN m.to_generation ELSE m.from_generation END INTO other
    FROM migrator.migrations AS m
   WHERE m.target_schema = parts[1] AND m.target_table = parts[2] AND m.target_column = generations.column_name
     AND m.status = ANY ({swappable}::text[]);
  RETURN ARRAY[live] || CASE WHEN other IS NULL THEN '{{}}'::text[] ELSE ARRAY[other] END;
END
$generations$

-- name: reader_ready
-- A reader says what it can embed queries with, and hears what it must be prepared for. One plain INSERT without a
-- unique key, so that it can't conflict, wait or fail in whatever transaction it is called; nothing where there is no
-- swap to be ready for, or where nothing may be written (a standby). Only what is asked for is kept of what was said.
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.reader_ready(
  target text, column_name text, generations text[],
  application text DEFAULT current_setting('application_name'), instance text DEFAULT pg_backend_pid()::text)
RETURNS text[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $ready$
DECLARE
  parts text[] := parse_ident(target);
BEGIN
  IF cardinality(parts) = 1 THEN
    parts := ARRAY['public'] || parts;
  END IF;
  IF current_setting('transaction_read_only') = 'off' THEN
    INSERT INTO migrator.readers (migration_id, application, role, instance, generations)
    SELECT m.id, regexp_replace(left(reader_ready.application, 63), '[^[:print:]]', '?', 'g'), session_user,
           regexp_replace(left(reader_ready.instance, 63), '[^[:print:]]', '?', 'g'),
           ARRAY(SELECT known FROM unnest(ARRAY[m.from_generation, m.to_generation]) AS known
                  WHERE known = ANY (reader_ready.generations))
      FROM migrator.migrations AS m
     WHERE m.target_schema = parts[1] AND m.target_table = parts[2] AND m.target_column = reader_ready.column_name
       AND m.status = ANY ({swappable}::text[]);
  END IF;
  RETURN migrator.generations(target, column_name);
END
$ready$

-- name: vector_types
-- The types of the installed pgvector, with their schema.
SELECT t.typname AS name, n.nspname AS schema
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'vector' AND t.typname IN ('vector', 'halfvec')

-- name: grant_usage
-- The functions above are for everybody; the tables of the schema are for nobody else.
-- idempotent: yes.
GRANT USAGE ON SCHEMA migrator TO PUBLIC

-- name: pin
-- Functions of an earlier version of this tool, which stand until a swap replaces them, are pinned as these are.
-- locks: none on a table.   idempotent: yes.
DO $pin$
DECLARE
  each regprocedure;
BEGIN
  FOR each IN SELECT p.oid FROM pg_proc p
               WHERE p.pronamespace = 'migrator'::regnamespace AND p.prosecdef
                 AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false) LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', each);
  END LOOP;
END
$pin$

-- name: live_targets
-- Every target that was ever moved, with its constant as it should be.
SELECT l.target_schema, l.target_table, l.target_column, l.generation,
       CASE WHEN l.generation = m.to_generation THEN 'to' ELSE 'from' END AS side
  FROM migrator.live l JOIN migrator.migrations m ON m.id = l.migration_id

-- name: functions_lock
-- Two swaps at once would replace functions of the same catalog rows (H9): this lock comes before the table's.
-- locks: advisory, until commit.
SELECT pg_advisory_xact_lock({key})
