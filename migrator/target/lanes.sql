-- Rows of the operator's table that lack a vector: read by page window or by key, written back in page lanes.

-- name: lock_table
-- The first thing a writing transaction does: whoever holds this, no swap can pass (H4).
-- locks: ROW EXCLUSIVE on the table, until commit.   idempotent: yes.
LOCK TABLE {table} IN ROW EXCLUSIVE MODE

-- name: read_window
-- Rows of a window of pages that have no vector yet, in lane order: first the first row of every page, then the second.
-- A dirty row is catch-up's, which may have it at the provider just now: embedded here too, it would be billed twice.
-- locks: none.   idempotent: yes.   source: TID range scan, PostgreSQL 14.
SELECT s.key, s.body, s.all_null
  FROM (SELECT {key} AS key, {text} AS body, {all_null} AS all_null, t.ctid::text::point AS place
          FROM {table} AS t
         WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid AND t.{column} IS NULL AND {in_scope}) AS s
 WHERE NOT EXISTS (SELECT FROM migrator.dispositions d
                    WHERE d.migration_id = %(migration_id)s AND d.key = s.key AND d.kind <> 'truncated')
   AND NOT EXISTS (SELECT FROM migrator.dirty d
                    WHERE d.migration_id = %(migration_id)s AND d.side = 'to' AND d.key = s.key)
 ORDER BY s.place[1], s.place[0]

-- name: read_keys
-- The same for rows named by `dirty`, whatever page they lie on.
-- locks: none.   idempotent: yes.
SELECT {key} AS key, {text} AS body, {all_null} AS all_null, t.{column} IS NULL AS missing, {in_scope} AS in_scope
  FROM {table} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}

-- name: write_rows
-- Put vectors into rows that still have the text that was embedded and no vector.
-- locks: the rows, until commit; a row that somebody else holds is passed over (H17).   idempotent: yes.
-- What does not match is in `dirty` already, or waits for the next pass.
WITH taken AS (
  SELECT t.ctid AS place, v.vector AS vector
    FROM {table} AS t
    JOIN unnest({key_arrays}, %(hashes)s::bytea[], %(vectors)b::{type}[]) AS v ({key_names}, text_hash, vector)
      ON {key_equals}
   WHERE t.{column} IS NULL AND sha256(convert_to({text}, 'UTF8')) = v.text_hash AND {in_scope}
     FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE {table} AS t SET {column} = taken.vector FROM taken WHERE t.ctid = taken.place
RETURNING {key} AS key

-- name: proof
-- The proof (H19): is there a row in scope without a vector, that neither `dirty` nor `dispositions` knows of? One
-- statement, one snapshot: a row's NULL and its hint come from one transaction, so they are seen together.
-- locks: none.   idempotent: yes.
SELECT count(*) AS rows, count(t.{column}) AS embedded,
       count(*) FILTER (WHERE t.{column} IS NULL AND d.key IS NULL AND p.key IS NULL AND {in_scope}) AS missing
  FROM {table} AS t
  LEFT JOIN (SELECT DISTINCT key FROM migrator.dirty WHERE migration_id = %(migration_id)s AND side = %(side)s) AS d
    ON t.{column} IS NULL AND d.key = {key}
  LEFT JOIN (SELECT key FROM migrator.dispositions
              WHERE migration_id = %(migration_id)s AND kind <> 'truncated') AS p
    ON t.{column} IS NULL AND p.key = {key}

-- name: prune_dispositions
-- Dispositions of rows that are gone, or have a vector after all.
-- locks: our own rows.   idempotent: yes.
DELETE FROM migrator.dispositions AS d
 WHERE d.migration_id = %(migration_id)s
   AND NOT EXISTS (SELECT FROM {table} AS t
                    WHERE {key} = d.key AND (t.{column} IS NULL) = (d.kind <> 'truncated') AND {in_scope})

-- name: write_counters
-- How many updates the table has had, and how many of them were HOT.
SELECT n_tup_ins AS inserts, n_tup_upd AS updates, n_tup_hot_upd AS hot_updates, n_dead_tup AS dead_rows, n_live_tup AS live_rows
  FROM pg_stat_all_tables WHERE relid = %(oid)s

-- name: page_count
-- The heap's size and identity now; another file means that it was rewritten since the windows were cut.
SELECT c.oid::bigint AS oid, pg_relation_filenode(c.oid)::bigint AS file,
       pg_relation_size(c.oid) / current_setting('block_size')::int AS pages
  FROM pg_class c WHERE c.oid = {table_name}::regclass
