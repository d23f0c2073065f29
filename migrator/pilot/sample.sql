-- Rows to be embedded before anything begins. All of it only reads.

-- name: pool
-- Random rows of random pages that are to have a vector: how long each text is, and its beginning, which tells its
-- language.
-- locks: none.   idempotent: with the same seed on an unchanged table.
SELECT s.key, length(s.body) AS letters, left(s.body, %(letters)s) AS beginning
  FROM (SELECT {key} AS key, {text} AS body, {in_scope} AS in_scope
          FROM {table} AS t TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (%(seed)s)) AS s
 WHERE s.in_scope AND s.body ~ '\S'
 ORDER BY md5(s.key::text || %(seed)s::text) LIMIT %(wanted)s

-- name: rows
-- These rows as they stand now, each text with the old vector beside it.
-- locks: none.
SELECT {key} AS key, {text} AS body, t.{column} AS vector
  FROM {table} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}
 WHERE {in_scope}
