-- Rows of the operator's table that lack a vector: read by page window or by key, written back in page lanes.

-- name: lock_table
-- The first thing a writing transaction does: whoever holds this, no swap can pass (H4).
-- ONLY: every swap locks a partitioned table itself before its partitions, so that one lock keeps it out.
-- locks: ROW EXCLUSIVE on the table, until commit.   idempotent: yes.
LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE

-- name: read_window
-- Rows of a window of pages that have no vector yet, in lane order: first the first row of every page, then the second.
-- A dirty row is catch-up's, which may have it at the provider just now: embedded here too, it would be billed twice.
-- locks: none.   idempotent: yes.   source: TID range scan, PostgreSQL 14.
SELECT s.key, s.body, s.all_null, s.heap, s.place[0]::bigint AS page, s.place[1]::int AS item
  FROM (SELECT {key} AS key, {text} AS body, {all_null} AS all_null, t.ctid::text::point AS place,
               t.tableoid::bigint AS heap
          FROM {heap} AS t
         WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid AND t.{column} IS NULL AND {in_scope}) AS s
 WHERE NOT EXISTS (SELECT FROM migrator.dispositions d
                    WHERE d.migration_id = %(migration_id)s AND d.key = s.key AND d.kind <> 'truncated')
   AND NOT EXISTS (SELECT FROM migrator.dirty d
                    WHERE d.migration_id = %(migration_id)s AND d.side = 'to' AND d.key = s.key)
 ORDER BY s.place[1], s.place[0]

-- name: read_keys
-- The same for rows named by `dirty`, whatever page they lie on. Under `only_embedded` a row without any vector is owed
-- one as long as a hint names it: what it lacks, we took away.
-- locks: none.   idempotent: yes.
SELECT {key} AS key, {text} AS body, {all_null} AS all_null, t.{column} IS NULL AS missing, {owed} AS in_scope, {parks} AS parks,
       t.tableoid::bigint AS heap, (t.ctid::text::point)[0]::bigint AS page
  FROM {heap} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}

-- name: free_keys
-- Which of these rows nobody holds: the vector of one that is held would be paid for, and could not be written (H17).
-- locks: the rows, until commit, which follows at once.   idempotent: yes.
SELECT {key} AS key FROM {table} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}
   FOR NO KEY UPDATE OF t SKIP LOCKED

-- name: write_rows
-- Put vectors into rows that still have the text that was embedded and no vector, and say how far some of them, a few of
-- each answer, are from what their rows hold of the old generation. Here, since the row is at hand: a statement of its
-- own read them for 12 us a row.
-- locks: the rows, until commit; a row that somebody else holds is passed over (H17).   idempotent: yes.
-- What does not match is in `dirty` already, or waits for the next pass. A ctid is unique in one partition only.
WITH taken AS (
  SELECT t.tableoid AS heap, t.ctid AS place, v.vector, v.answer, v.number
    FROM {heap} AS t
    JOIN unnest({key_arrays}, %(hashes)b::bytea[], %(vectors)b::{type}[], %(answers)b::int[]) WITH ORDINALITY
         AS v ({key_names}, text_hash, vector, answer, number)
      ON {key_equals}
   WHERE t.{column} IS NULL AND sha256(convert_to({text}, 'UTF8')) = v.text_hash AND {owed}
     FOR NO KEY UPDATE OF t SKIP LOCKED),
counted AS (
  SELECT heap, place, vector, number, row_number() OVER (PARTITION BY answer ORDER BY number) AS turn FROM taken)
UPDATE {heap} AS t SET {column} = c.vector FROM counted AS c WHERE t.ctid = c.place AND t.tableoid = c.heap
RETURNING c.number::int AS number,
  CASE WHEN c.turn <= %(compared)s AND {dims}(t.{from_column}) = {dims}(c.vector)
       THEN t.{from_column}::{vector} OPERATOR({vector_schema}.<=>) c.vector::{vector} END AS distance

-- name: proof
-- The proof (H19): is there a row in scope without a vector, that neither `dirty` nor `dispositions` knows of, or one
-- without text that has a vector? One statement, one snapshot: a row's NULL and its hint come from one transaction, so
-- they are seen together. It reads the whole table, and can't be cut into pieces: between two, a row moves from one that
-- is still to be read to one that was. Once a pass, without a lock; nothing is embedded meanwhile, so that the horizon
-- which it holds back costs only the application's own updates their HOT.
-- locks: none.   idempotent: yes.
SELECT count(*) AS rows, count(t.{column}) AS embedded,
       count(*) FILTER (WHERE t.{column} IS NULL AND d.key IS NULL AND p.key IS NULL AND {in_scope}) AS missing,
       count(*) FILTER (WHERE t.{column} IS NULL AND NOT {in_scope}) AS filtered,
       count(*) FILTER (WHERE t.{column} IS NOT NULL AND {text} !~ '\S') AS wordless
  FROM {table} AS t
  LEFT JOIN (SELECT DISTINCT key FROM migrator.dirty WHERE migration_id = %(migration_id)s AND side = %(side)s) AS d
    ON t.{column} IS NULL AND d.key = {key}
  LEFT JOIN (SELECT key FROM migrator.dispositions
              WHERE migration_id = %(migration_id)s AND kind <> 'truncated') AS p
    ON t.{column} IS NULL AND p.key = {key}

-- name: left_in_heap
-- The same of one heap: a partition that was attached after the proof.
-- locks: none.   idempotent: yes.
SELECT count(*) AS left FROM {heap} AS t
 WHERE t.{column} IS NULL AND {in_scope} AND {text} ~ '\S'
   AND NOT EXISTS (SELECT FROM migrator.dispositions p WHERE p.migration_id = %(migration_id)s AND p.key = {key})
   AND NOT EXISTS (SELECT FROM migrator.dirty d
                    WHERE d.migration_id = %(migration_id)s AND d.side = 'to' AND d.key = {key})

-- name: prune_dispositions
-- Dispositions of rows that are gone, or have a vector after all: a look-up by key for each, never a scan of the table.
-- locks: our own rows, in the keys' order.   idempotent: yes.
WITH locked AS MATERIALIZED (
  SELECT d.key FROM migrator.dispositions AS d
   WHERE d.migration_id = %(migration_id)s
     AND NOT EXISTS (SELECT FROM {table} AS t
                      WHERE {key} = d.key AND (t.{column} IS NULL) = (d.kind <> 'truncated') AND {in_scope})
   ORDER BY d.key FOR UPDATE OF d)
DELETE FROM migrator.dispositions AS d USING locked WHERE d.migration_id = %(migration_id)s AND d.key = locked.key

-- name: write_counters
-- How many rows the table and its partitions have had inserted and updated, and how many of the updates were HOT; no row
-- where the table is gone. By the functions under pg_stat_all_tables, which joins what nobody asks for here.
-- locks: none on the table or its partitions, which pg_partition_tree would open.
WITH RECURSIVE tree AS (
  SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
   WHERE n.nspname = %(schema)s AND c.relname = %(table)s
  UNION SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
SELECT sum(pg_stat_get_tuples_inserted(oid))::bigint AS inserts,
       sum(pg_stat_get_tuples_updated(oid))::bigint AS updates,
       sum(pg_stat_get_tuples_hot_updated(oid))::bigint AS hot_updates,
       sum(pg_stat_get_dead_tuples(oid))::bigint AS dead_rows, sum(pg_stat_get_live_tuples(oid))::bigint AS live_rows
  FROM tree HAVING count(*) > 0
