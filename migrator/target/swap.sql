-- The swap, and the way back: the same statements, since both exchange the names of two columns.

-- name: check
-- Under the lock: the catalog is what the last look saw, the rules are made for every declared writer, and few enough
-- rows lack a vector.
-- locks: held already.
DO $check$
DECLARE
  dirty_rows bigint;
  oldest double precision;
  now_is text;
BEGIN
  SELECT md5(string_agg(f.part || '=' || coalesce(f.text, ''), chr(10) ORDER BY f.part COLLATE "C")) INTO now_is
    FROM ({fingerprint}) AS f;
  IF now_is IS DISTINCT FROM {expected} THEN
    RAISE EXCEPTION 'migrator: the catalog changed' USING ERRCODE = 'MG002';
  END IF;
  IF (SELECT m.writers FROM migrator.migrations AS m WHERE m.id = {migration_id}) <> {writers}::jsonb THEN
    RAISE EXCEPTION 'migrator: a writer was declared' USING ERRCODE = 'MG002';
  END IF;
  SELECT count(DISTINCT d.key), coalesce(extract(epoch FROM clock_timestamp() - min(d.at)), 0)
    INTO dirty_rows, oldest
    FROM migrator.dirty AS d WHERE d.migration_id = {migration_id} AND d.side = {side};
  IF dirty_rows > {max_dirty_rows} OR oldest > {max_dirty_seconds} THEN
    RAISE EXCEPTION 'migrator: too many rows lack a vector' USING ERRCODE = 'MG003';
  END IF;
  RAISE NOTICE 'migrator-dirty: %', dirty_rows;
END
$check$

-- name: exchange
-- The names change, and what was bound to the old column by its number follows (`restating`): it first says what it is,
-- by name; the same words, said again after the names changed, name the other column.
-- locks: held already; SHARE UPDATE EXCLUSIVE on the indexes that change names.   idempotent: no.
DO $exchange$
DECLARE
  said text[];
  statement text;
BEGIN
  said := ARRAY({said});
  FOREACH statement IN ARRAY {renames}::text[] LOOP
    EXECUTE statement;
  END LOOP;
  RAISE NOTICE 'migrator: names %', extract(epoch FROM clock_timestamp());
  PERFORM set_config('search_path', {path}, true);
  FOREACH statement IN ARRAY said LOOP
    EXECUTE statement;
  END LOOP;
  PERFORM set_config('search_path', 'pg_catalog', true);
  RAISE NOTICE 'migrator: views %', extract(epoch FROM clock_timestamp());
END
$exchange$

-- name: left_behind
-- Behind the exchange: whatever reads or writes the column by its number has followed the name. A kind that nobody
-- thought of, or one that names columns by their place, ends the swap instead of mixing generations (P1).
-- locks: none of its own.
DO $behind$
DECLARE
  what text;
BEGIN
  SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), ', ') INTO what
    FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = {oid} AND a.attname = {shadow} AND d.deptype <> 'i'
     -- Of our own making, and meant for this column: twins of indexes and CHECKs.
     AND d.classid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass)
     AND NOT EXISTS (SELECT FROM pg_trigger t WHERE d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
                        AND t.tgname LIKE '%\_\_migrator');
  IF what IS NOT NULL THEN
    RAISE EXCEPTION 'migrator: %', what USING ERRCODE = 'MG006';
  END IF;
END
$behind$

-- name: rename_column
-- locks: held already.   idempotent: no.
ALTER TABLE {table} RENAME COLUMN {old} TO {new}

-- name: rename_index
-- locks: SHARE UPDATE EXCLUSIVE on the index.   idempotent: no.
ALTER INDEX {old} RENAME TO {new}

-- name: live
-- idempotent: yes.
UPDATE migrator.live SET generation = {generation}, migration_id = {migration_id}, since = now()
 WHERE target_schema = {target_schema} AND target_table = {target_table} AND target_column = {target_column}

-- name: notify
-- Heard by `LISTEN migrator_live` at commit.
SELECT pg_notify('migrator_live', {payload})

-- name: view_edges
-- Which of these views reads which other of them.
SELECT DISTINCT r.ev_class::bigint AS outer_oid, d.refobjid::bigint AS inner_oid
  FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
 WHERE r.ev_class = ANY(%(oids)s::oid[]) AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = ANY(%(oids)s::oid[]) AND d.refobjid <> r.ev_class
