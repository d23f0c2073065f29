-- Rows to be embedded again with the old model. All of it only reads.

-- name: sample
-- Random rows of random pages that have text and a vector; the columns' texts come singly too, for other templates.
-- locks: none.   idempotent: with the same seed on an unchanged table.
SELECT s.key, s.body, s.pieces, s.vector
  FROM (SELECT {key} AS key, {text} AS body, {pieces} AS pieces, t.{column} AS vector, {in_scope} AS in_scope
          FROM {table} AS t TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (%(seed)s)) AS s
 WHERE s.vector IS NOT NULL AND s.in_scope AND s.body ~ '\S'
 ORDER BY md5(s.key::text || %(seed)s::text) LIMIT %(wanted)s
