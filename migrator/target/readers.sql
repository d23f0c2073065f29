-- What applications call. Installed by `migrator init`; kept after cleanup.

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
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $live$
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
-- idempotent: yes.
CREATE OR REPLACE FUNCTION migrator.query_vector(target text, column_name text, old_vector {type}, new_vector {type})
RETURNS {type} LANGUAGE plpgsql STABLE PARALLEL SAFE AS $query$
BEGIN
  IF (SELECT r.side FROM migrator.live_row(target, column_name) AS r) = 'to' THEN
    RETURN new_vector;
  END IF;
  RETURN old_vector;
END
$query$

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

-- name: live_targets
-- Every target that was ever moved, with its constant as it should be.
SELECT l.target_schema, l.target_table, l.target_column, l.generation,
       CASE WHEN l.generation = m.to_generation THEN 'to' ELSE 'from' END AS side
  FROM migrator.live l JOIN migrator.migrations m ON m.id = l.migration_id
