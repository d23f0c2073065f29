-- Putting the capture on again. Rows that were written while it was off are known by their xmin, whoever wrote them and
-- wherever they lie: what is stored in them may be another text's vector, or another generation's.

-- name: pages
-- The pages of the table, or of its largest partition.
-- locks: none.
SELECT greatest(pg_relation_size({table_name}::regclass), max(pg_relation_size(p.relid)))
       / current_setting('block_size')::int AS pages
  FROM pg_partition_tree({table_name}::regclass) AS p

-- name: note
-- Before the cutover: the vectors that readers search were the application's own business all the time, but no fence
-- kept a session that declares the new generation from writing among them. The watch looks at each.
-- locks: none.   idempotent: no: a row is looked at once more.
INSERT INTO migrator.written (migration_id, side, key, application, role)
SELECT {migration_id}, {live_side}, {key}, 'anybody, while capture was off', ''
  FROM {table} AS t
 WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid
   AND t.{live} IS NOT NULL AND age(t.xmin) <= age(%(xid)s::text::xid)

-- name: take_back
-- The vectors of one such row of each page of a window: in lanes, so that the updates stay HOT. Before the cutover the
-- shadow's, after it both columns': an old writer's vector may be among those that readers search.
-- locks: the rows, until commit; a row that somebody else holds is passed over (H17).   idempotent: yes.
WITH unseen AS (
  SELECT DISTINCT ON (t.tableoid, (t.ctid::text::point)[0]) t.tableoid AS leaf, t.ctid AS place
    FROM {table} AS t
   WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid
     AND ({filled}) AND age(t.xmin) <= age(%(xid)s::text::xid)
   ORDER BY t.tableoid, (t.ctid::text::point)[0], t.ctid),
taken AS (
  SELECT t.tableoid AS leaf, t.ctid AS place
    FROM {table} AS t JOIN unseen AS s ON t.tableoid = s.leaf AND t.ctid = s.place
   WHERE {filled}
     FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE {table} AS t SET {emptied} FROM taken WHERE t.tableoid = taken.leaf AND t.ctid = taken.place

-- name: left
-- locks: none.
SELECT count(*) AS rows FROM {table} AS t WHERE ({filled}) AND age(t.xmin) <= age(%(xid)s::text::xid)

-- name: mark
-- After the cutover: no pass comes by, so each of those rows is marked, for both columns.
-- locks: none.   idempotent: yes: hints are hints.
INSERT INTO migrator.dirty (migration_id, side, key)
SELECT {migration_id}, s.side, {key}
  FROM {table} AS t CROSS JOIN (VALUES ({live_side}), ({shadow_side})) AS s (side)
 WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid AND age(t.xmin) <= age(%(xid)s::text::xid)
