-- A look at both columns for the report's picture. All of it only reads.

-- name: pairs
-- Rows of a few random pages that have both vectors: nothing but those pages is read, whatever the table's size.
-- locks: none.   source: PostgreSQL's documentation of TABLESAMPLE: SYSTEM samples blocks.
SELECT t.{old} AS old, t.{new} AS new
  FROM {table} AS t TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (%(seed)s)
 WHERE t.{old} IS NOT NULL AND t.{new} IS NOT NULL AND {in_scope} LIMIT %(wanted)s
