-- Putting the capture on again. Rows that were written while it was off are known by their xmin, whoever wrote them and
-- wherever they lie: what is stored in them may be another text's vector, or another generation's. They are listed in one
-- statement, since rows move between windows (H19), and what is written from then on is seen again.

-- name: list
-- A row that was frozen long ago may keep an xmin from before the counter went round: its age is far below zero. One that
-- is written while the statement runs is a little below zero: a million transactions is more than any statement sees.
-- locks: none.   idempotent: yes: a key that is listed twice is looked at twice.
INSERT INTO migrator.unseen (migration_id, key)
SELECT {migration_id}, {key} FROM {table} AS t WHERE age(t.xmin) BETWEEN -1000000 AND age(%(xid)s::text::xid)

-- name: note
-- Before the first cutover: the vectors that readers search were the application's own business all the time, but no
-- fence kept a session that declares the new generation from writing among them. The watch looks at each.
-- locks: none.   idempotent: no: a row is looked at once more.
INSERT INTO migrator.written (migration_id, side, key, application, role)
SELECT {migration_id}, {live_side}, u.key, 'anybody, while capture was off', ''
  FROM migrator.unseen AS u WHERE u.migration_id = {migration_id}

-- name: take_back
-- The vectors of a handful of those rows, and in their place hints. Before the first cutover the shadow's, later both
-- columns': a writer of the other generation may have written among those that readers search. Of a row that nobody would
-- embed again (out of scope) the searched vector and the old one stay, and the watch looks at the searched one.
-- Rows that are gone are done; those that somebody else holds wait (H17), and so do those that were updated since the
-- statement began: they are locked as they are now, and looked for as they were. Every row is updated, since it may have
-- got a vector since.
-- locks: the rows, until commit.   idempotent: yes.
WITH listed AS (
  SELECT u.id, u.key FROM migrator.unseen AS u WHERE u.migration_id = {migration_id} ORDER BY u.id LIMIT %(rows)s),
wanted AS (SELECT DISTINCT l.key, {fields} FROM listed AS l),
there AS (SELECT w.key FROM wanted AS w JOIN {table} AS t ON {is_the_row}),
held AS (
  SELECT t.tableoid AS leaf, t.ctid AS place, w.key, {in_scope} AS scoped
    FROM wanted AS w JOIN {table} AS t ON {is_the_row}
     FOR NO KEY UPDATE OF t SKIP LOCKED),
emptied AS (
  UPDATE {table} AS t SET {emptied} FROM held AS h WHERE t.tableoid = h.leaf AND t.ctid = h.place
  RETURNING h.key, h.scoped),
marked AS (
  INSERT INTO migrator.dirty (migration_id, side, key)
  SELECT {migration_id}, s.side, e.key FROM emptied AS e CROSS JOIN unnest({sides}::text[]) AS s (side) WHERE e.scoped),
noted AS (
  INSERT INTO migrator.written (migration_id, side, key, application, role)
  SELECT {migration_id}, {live_side}, e.key, 'anybody, while capture was off', '' FROM emptied AS e
   WHERE {noted} AND NOT e.scoped),
done AS (
  DELETE FROM migrator.unseen AS u USING listed AS l
   WHERE u.id = l.id AND (l.key IN (SELECT e.key FROM emptied AS e) OR l.key NOT IN (SELECT e.key FROM there AS e))
  RETURNING u.key)
SELECT count(DISTINCT d.key) AS done, (SELECT count(*) FROM emptied) AS rows, (SELECT count(*) FROM listed) AS listed
  FROM done AS d

-- name: put_off
-- What is held goes to the end of the list, so that the rest is not waited with.
-- idempotent: yes.
WITH first AS (
  DELETE FROM migrator.unseen WHERE id IN (
    SELECT u.id FROM migrator.unseen AS u WHERE u.migration_id = {migration_id} ORDER BY u.id LIMIT %(rows)s)
  RETURNING key)
INSERT INTO migrator.unseen (migration_id, key) SELECT {migration_id}, f.key FROM first AS f

-- name: left
-- locks: none.
SELECT count(DISTINCT u.key) AS rows FROM migrator.unseen AS u WHERE u.migration_id = {migration_id}

-- name: forget
-- idempotent: yes.
DELETE FROM migrator.unseen WHERE migration_id = {migration_id}
