-- Real query texts, from a table of the operator's that is not the target.

-- name: kind
-- What that name is: only of a table or a materialized view can a sample be drawn.
-- locks: none.
SELECT c.relkind::text AS kind, greatest(c.reltuples, 0)::bigint AS rows,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped)
         AS has_column
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: sample
-- Random texts of a column, each once; in the database's own collation, since the column's may take no regular expression.
-- locks: none.
SELECT s.text
  FROM (SELECT DISTINCT t.{column}::text COLLATE pg_catalog."default" AS text
          FROM {table} AS t TABLESAMPLE BERNOULLI (%(percent)s) REPEATABLE (%(seed)s)
         WHERE t.{column}::text COLLATE pg_catalog."default" ~ '\S') AS s
 ORDER BY md5(s.text || %(seed)s::text) LIMIT %(wanted)s
