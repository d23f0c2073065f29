-- What is bound to a column by its number, and is bound to another one by being said again, by name.

-- name: said
-- Each line is one statement, in the order in which it is run after the names changed: dropped and made again, or
-- replaced where PostgreSQL can, so that owner, grants and comments of views and functions stay. Reads the catalog as it
-- is before the names change.
-- locks: none.
SELECT s.statement
  FROM (
    -- CREATE OR REPLACE VIEW would drop a view's options, so they are said again.
    SELECT 1 AS turn, o.position, 1 AS step,
           format('CREATE OR REPLACE VIEW %I.%I%s AS %s', n.nspname, c.relname,
                  coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', ''), pg_get_viewdef(c.oid)) AS statement
      FROM unnest({views}::oid[]) WITH ORDINALITY AS o (oid, position)
      JOIN pg_class c ON c.oid = o.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 2, o.position, 1, pg_get_functiondef(o.oid)
      FROM unnest({functions}::oid[]) WITH ORDINALITY AS o (oid, position)
    UNION ALL
    SELECT 3, o.position, 1, regexp_replace(pg_get_ruledef(o.oid), '^CREATE RULE', 'CREATE OR REPLACE RULE')
      FROM unnest({rules}::oid[]) WITH ORDINALITY AS o (oid, position)
    UNION ALL
    SELECT 4, o.position, step.number, step.statement
      FROM unnest({triggers}::oid[]) WITH ORDINALITY AS o (oid, position)
      JOIN pg_trigger t ON t.oid = o.oid
     CROSS JOIN LATERAL (VALUES
       (1, format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass)),
       (2, pg_get_triggerdef(t.oid)),
       (3, CASE WHEN t.tgenabled <> 'O' THEN
             format('ALTER TABLE %s %s TRIGGER %I', t.tgrelid::regclass,
                    CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
                    t.tgname) END),
       (4, format('COMMENT ON TRIGGER %I ON %s IS ', t.tgname, t.tgrelid::regclass)
           || quote_literal(obj_description(t.oid, 'pg_trigger')))) AS step (number, statement)
    UNION ALL
    SELECT 5, o.position, step.number, step.statement
      FROM unnest({policies}::oid[]) WITH ORDINALITY AS o (oid, position)
      JOIN pg_policy p ON p.oid = o.oid
     CROSS JOIN LATERAL (VALUES
       (1, format('DROP POLICY %I ON %s', p.polname, p.polrelid::regclass)),
       (2, format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, p.polrelid::regclass,
                  CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(CASE WHEN r.oid = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.oid)) END, ', ')
                     FROM unnest(p.polroles) AS r (oid)))
           || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
           || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')),
       (3, format('COMMENT ON POLICY %I ON %s IS ', p.polname, p.polrelid::regclass)
           || quote_literal(obj_description(p.oid, 'pg_policy')))) AS step (number, statement)
    UNION ALL
    -- What they had counted is gone with them: the next ANALYZE counts anew.
    SELECT 6, o.position, step.number, step.statement
      FROM unnest({statistics}::oid[]) WITH ORDINALITY AS o (oid, position)
      JOIN pg_statistic_ext x ON x.oid = o.oid JOIN pg_namespace n ON n.oid = x.stxnamespace
     CROSS JOIN LATERAL (VALUES
       (1, format('DROP STATISTICS %I.%I', n.nspname, x.stxname)),
       (2, pg_get_statisticsobjdef(x.oid)),
       (3, CASE WHEN coalesce(x.stxstattarget, -1) >= 0 THEN
             format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, x.stxname, x.stxstattarget) END),
       (4, format('COMMENT ON STATISTICS %I.%I IS ', n.nspname, x.stxname)
           || quote_literal(obj_description(x.oid, 'pg_statistic_ext'))),
       (5, format('ALTER STATISTICS %I.%I OWNER TO %I', n.nspname, x.stxname, pg_get_userbyid(x.stxowner)))
       ) AS step (number, statement)
    UNION ALL
    SELECT 7, 1, step.number, format(step.statement, c.oid::regclass, step.name, pg_get_expr(f.adbin, f.adrelid))
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = {column}
      JOIN pg_attrdef f ON f.adrelid = c.oid AND f.adnum = a.attnum
     CROSS JOIN LATERAL (VALUES (1, {column}::text, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET DEFAULT %3$s'),
                                (2, {shadow}::text, 'ALTER TABLE %1$s ALTER COLUMN %2$I DROP DEFAULT'))
                        AS step (number, name, statement)
     WHERE c.oid = {oid}
    UNION ALL
    SELECT 8, 1, step.number,
           format('COMMENT ON COLUMN %s.%I IS %L', c.oid::regclass, step.name, col_description(c.oid, a.attnum))
      FROM pg_class c
     CROSS JOIN LATERAL (VALUES (1, {column}::text, {column}::text), (2, {shadow}::text, {shadow}::text))
                        AS step (number, attribute, name)
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = step.attribute
     WHERE c.oid = {oid}
       AND EXISTS (SELECT FROM pg_description d JOIN pg_attribute b ON b.attrelid = c.oid AND b.attnum = d.objsubid
                    WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND b.attname IN ({column}, {shadow}))
    UNION ALL
    -- What is set for an index goes where its name goes: here names and twins are as they are before they change places.
    SELECT 9, o.position, step.number,
           format(step.statement, step.schema, step.name, coalesce(quote_literal(obj_description(step.source, 'pg_class')), 'NULL'),
                  step.attribute, step.target, step.source_table)
      FROM unnest({index_schemas}::text[], {index_names}::text[], {twin_names}::text[])
           WITH ORDINALITY AS o (schema, name, twin, position)
      JOIN pg_namespace n ON n.nspname = o.schema
      JOIN pg_class l ON l.relnamespace = n.oid AND l.relname = o.name JOIN pg_index i ON i.indexrelid = l.oid
      JOIN pg_class w ON w.relnamespace = n.oid AND w.relname = o.twin JOIN pg_index j ON j.indexrelid = w.oid
     CROSS JOIN LATERAL (
       SELECT 1 AS number, 'COMMENT ON INDEX %1$I.%2$I IS %3$s' AS statement, o.schema, side.name, side.source,
              NULL::int2 AS attribute, NULL::int2 AS target, NULL::regclass AS source_table
         FROM (VALUES (o.name, l.oid), (o.twin, w.oid)) AS side (name, source)
        WHERE obj_description(l.oid, 'pg_class') IS NOT NULL OR obj_description(w.oid, 'pg_class') IS NOT NULL
       UNION ALL
       SELECT 2, 'ALTER INDEX %1$I.%2$I ALTER COLUMN %4$s SET STATISTICS %5$s', o.schema, side.name, side.source,
              a.attnum, coalesce(a.attstattarget, -1), NULL
         FROM (VALUES (o.name, l.oid, w.oid), (o.twin, w.oid, l.oid)) AS side (name, source, other)
         JOIN pg_attribute a ON a.attrelid = side.source JOIN pg_attribute b ON b.attrelid = side.other AND b.attnum = a.attnum
        WHERE coalesce(a.attstattarget, -1) <> coalesce(b.attstattarget, -1)
       UNION ALL
       SELECT 3, 'ALTER TABLE %6$s CLUSTER ON %2$I', o.schema, side.name, side.source, NULL, NULL, i.indrelid::regclass
         FROM (VALUES (o.name, l.oid, i.indisclustered), (o.twin, w.oid, j.indisclustered)) AS side (name, source, marked)
        WHERE side.marked) AS step
    UNION ALL
    -- Taken out and put in again: the publication's other tables stay as they are, and no subscriber sees it without.
    SELECT 10, o.position, step.number, step.statement
      FROM unnest({publications}::oid[]) WITH ORDINALITY AS o (oid, position)
      JOIN pg_publication p ON p.oid = o.oid JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = {oid}
     CROSS JOIN LATERAL (VALUES
       (1, format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, r.prrelid::regclass)),
       (2, format('ALTER PUBLICATION %I ADD TABLE %s (%s)', p.pubname, r.prrelid::regclass,
                  (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                    WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])))
           || coalesce(' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')', ''))) AS step (number, statement)
    UNION ALL
    -- For the time being: rows lack a vector for moments, and cleanup puts it back (H23).
    SELECT 11, 1, 1, format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', a.attrelid::regclass, {shadow}::text)
      FROM pg_attribute a WHERE a.attrelid = {oid} AND a.attname = {column} AND a.attnotnull
  ) AS s
 WHERE s.statement IS NOT NULL
 ORDER BY s.turn, s.position, s.step

-- name: remember_not_null
-- By its name and with its comment, where PostgreSQL has them for it (18).
-- idempotent: yes.
UPDATE migrator.migrations AS m
   SET not_null = coalesce(k.conname, left(a.attname, 54) || '_not_null'),
       plan = m.plan || jsonb_strip_nulls(jsonb_build_object('not_null_comment', obj_description(k.oid, 'pg_constraint')))
  FROM pg_attribute a
  LEFT JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
 WHERE m.id = {migration_id} AND a.attrelid = {oid} AND a.attname = {column} AND a.attnotnull

-- name: search
-- PostgreSQL qualifies every name that it says, but not the = that stands in IS DISTINCT FROM, NULLIF and CASE.
SELECT set_config('search_path', {path}, true)

-- name: alike
-- The shadow column is stored, compressed, counted and granted as the live one is, on the table and on each of its
-- partitions: whoever may use the one may use the other, whichever is live. Once at the start, and again in each swap:
-- what was granted or revoked, set or reset since then holds for the column of that name, too.
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: yes.
DO $alike$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT step.statement
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = {column}
      JOIN pg_attribute b ON b.attrelid = c.oid AND b.attname = {shadow}
     CROSS JOIN LATERAL (
       VALUES
         (1, CASE WHEN a.attstorage <> b.attstorage THEN
               format('ALTER TABLE ONLY %s ALTER COLUMN %I SET STORAGE %s', c.oid::regclass, b.attname,
                      CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN'
                                        ELSE 'EXTENDED' END) END),
         (2, CASE WHEN a.attcompression <> b.attcompression THEN
               format('ALTER TABLE ONLY %s ALTER COLUMN %I SET COMPRESSION %s', c.oid::regclass, b.attname,
                      CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE 'DEFAULT' END) END),
         (3, CASE WHEN coalesce(a.attstattarget, -1) <> coalesce(b.attstattarget, -1) THEN
               format('ALTER TABLE ONLY %s ALTER COLUMN %I SET STATISTICS %s', c.oid::regclass, b.attname,
                      coalesce(a.attstattarget, -1)) END),
         (4, format('ALTER TABLE ONLY %s ALTER COLUMN %I RESET ', c.oid::regclass, b.attname)
             || (SELECT '(' || string_agg(split_part(o.option, '=', 1), ', ') || ')' FROM unnest(b.attoptions) AS o (option)
                  WHERE split_part(o.option, '=', 1) NOT IN (
                          SELECT split_part(l.option, '=', 1) FROM unnest(a.attoptions) AS l (option)))),
         (5, format('ALTER TABLE ONLY %s ALTER COLUMN %I SET ', c.oid::regclass, b.attname)
             || ('(' || array_to_string(a.attoptions, ', ') || ')'))
       UNION ALL
       SELECT 6, format('GRANT %s (%I) ON %s TO %s%s', g.privilege_type, b.attname, c.oid::regclass,
                        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
                        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
         FROM aclexplode(a.attacl) AS g
       UNION ALL
       SELECT 0, format('REVOKE %s (%I) ON %s FROM %s CASCADE', g.privilege_type, b.attname, c.oid::regclass,
                        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END)
         FROM aclexplode(b.attacl) AS g
        WHERE (g.grantee, g.privilege_type, g.is_grantable) NOT IN (
                SELECT h.grantee, h.privilege_type, h.is_grantable FROM aclexplode(a.attacl) AS h))
         AS step (number, statement)
     WHERE c.oid = {oid} OR c.oid IN (SELECT p.relid FROM pg_partition_tree({oid}::oid) AS p)
     ORDER BY c.oid, step.number
  LOOP
    CONTINUE WHEN statement IS NULL;
    EXECUTE statement;
  END LOOP;
END
$alike$

-- name: checks
-- The CHECK constraints on a column, in PostgreSQL's own words. `alone`: they read no other column.
-- locks: none.
SELECT k.oid::bigint AS oid, k.conname::text AS name, pg_get_constraintdef(k.oid) AS definition,
       pg_get_expr(k.conbin, k.conrelid) AS expression, cardinality(k.conkey) = 1 AS alone, k.convalidated AS validated,
       obj_description(k.oid, 'pg_constraint') AS comment
  FROM pg_constraint k
 WHERE k.conrelid = %(oid)s AND k.contype = 'c' AND %(column_number)s = ANY(k.conkey) AND k.coninhcount = 0
 ORDER BY k.conname

-- name: lets_null_pass
-- Whether a CHECK is content with a row that has no vector yet, as the shadow's rows are for days.
-- locks: none.
SELECT ({expression}) IS NOT FALSE AS passes FROM (SELECT NULL::{type} AS {column}) AS t

-- name: add_check
-- Not looked at over the whole table under the lock: `validate_check` does that without one.
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: no.
ALTER TABLE {table} ADD CONSTRAINT {name} {definition}

-- name: comment_check
-- locks: SHARE UPDATE EXCLUSIVE on the table, held already.   idempotent: yes.
COMMENT ON CONSTRAINT {name} ON {table} IS {comment}

-- name: validate_check
-- locks: SHARE UPDATE EXCLUSIVE on the table, for as long as it takes to read it.   idempotent: yes.
ALTER TABLE {table} VALIDATE CONSTRAINT {name}

-- name: rename_check
-- locks: ACCESS EXCLUSIVE on the table, held already.   idempotent: no.
ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}
