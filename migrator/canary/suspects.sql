-- Rows whose new vector was written after the canary was good last. Their xmin says so, whoever wrote them and wherever
-- they lie; rows that the application wrote since are among them, which costs their embedding and no more. A row that was
-- frozen long ago may keep an xmin from before the counter went round: its age is far below zero.

-- name: pages
-- The pages of the table, or of its largest partition.
-- locks: none.
SELECT greatest(pg_relation_size({table_name}::regclass), max(pg_relation_size(p.relid)))
       / current_setting('block_size')::int AS pages
  FROM pg_partition_tree({table_name}::regclass) AS p

-- name: count
-- locks: none.   idempotent: yes.
SELECT count(*) AS rows FROM {table} AS t
 WHERE t.{column} IS NOT NULL AND age(t.xmin) BETWEEN -1000000 AND age(%(xid)s::text::xid)

-- name: forget
-- Take back the new vector of one suspect row of each page of a window: in lanes, so that the updates stay HOT.
-- locks: the rows, until commit; a row that somebody else holds is passed over (H17).   idempotent: yes.
-- What is taken back is NULL again, so the next pass and the proof find it.
WITH suspect AS (
  SELECT DISTINCT ON (t.tableoid, (t.ctid::text::point)[0]) t.tableoid AS leaf, t.ctid AS place
    FROM {table} AS t
   WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid
     AND t.{column} IS NOT NULL AND age(t.xmin) BETWEEN -1000000 AND age(%(xid)s::text::xid)
   ORDER BY t.tableoid, (t.ctid::text::point)[0], t.ctid),
taken AS (
  SELECT t.tableoid AS leaf, t.ctid AS place
    FROM {table} AS t JOIN suspect AS s ON t.tableoid = s.leaf AND t.ctid = s.place
   WHERE t.{column} IS NOT NULL
     FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE {table} AS t SET {column} = NULL FROM taken WHERE t.tableoid = taken.leaf AND t.ctid = taken.place
