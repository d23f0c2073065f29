-- Searches over one of the two columns, as an application makes them. All of it only reads.

-- name: operator
-- The ordering operator that an index of this class serves: what an application must write for the index to be used.
-- source: pg_amop; an operator of purpose 'o' is the one of ORDER BY.
-- locks: none.
SELECT n.nspname::text AS schema, o.oprname::text AS name
  FROM pg_opclass c JOIN pg_namespace cn ON cn.oid = c.opcnamespace JOIN pg_am m ON m.oid = c.opcmethod
  JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoppurpose = 'o'
  JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
 WHERE cn.nspname = %(opclass_schema)s AND c.opcname = %(opclass)s AND m.amname = %(method)s

-- name: settings
-- How the planner may go about the searches of this transaction; what is not said stays the server's own.
SELECT set_config(name, value, true) FROM unnest(%(names)s::text[], %(values)s::text[]) AS s (name, value)

-- name: breadth
-- How far an approximate search looks; null before the extension's library is loaded.
SELECT current_setting('hnsw.ef_search', true) AS ef_search, current_setting('ivfflat.probes', true) AS probes

-- name: search
-- The rows nearest to a vector, nearest first. `predicate`: the index's own, where it is partial. `searched` is the
-- column, or the index's expression over it; `asked` the same of the vector that is searched for. Rows out of scope have
-- no new vector, and an application that leaves them alone does not search them either.
-- locks: none.
SELECT {key} AS key, ({searched} OPERATOR({schema}.{operator}) {asked})::float8 AS distance
  FROM {table} AS t
 WHERE t.{column} IS NOT NULL AND {in_scope} AND {predicate}
 ORDER BY {searched} OPERATOR({schema}.{operator}) {asked} LIMIT %(depth)s

-- name: still
-- Which of these rows have both vectors now, with their text: what was edited since it was drawn is nobody's fault.
-- locks: none.
SELECT {key} AS key, {text} AS body
  FROM {table} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}
 WHERE t.{old} IS NOT NULL AND t.{new} IS NOT NULL

-- name: pairs
-- Random rows that have both vectors, with their text.
-- locks: none.
SELECT s.key, s.body, s.old, s.new
  FROM (SELECT {key} AS key, {text} AS body, t.{old} AS old, t.{new} AS new
          FROM {table} AS t TABLESAMPLE BERNOULLI (%(percent)s) REPEATABLE (%(seed)s)
         WHERE t.{old} IS NOT NULL AND t.{new} IS NOT NULL AND {in_scope} AND {predicate}) AS s
 ORDER BY md5(s.key::text || %(seed)s::text) LIMIT %(wanted)s
