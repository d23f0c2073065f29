-- Everything that is bound to a column by its number, and would stay on the old column when only names are swapped.

-- name: column_dependents
-- What gives the table's columns names of its own by their places, `docs AS d (a, b, c)`, says the same after the names
-- have changed and still means the old column: `by position`.
-- locks: none.
WITH RECURSIVE direct AS (
  SELECT DISTINCT d.classid, d.objid
    FROM pg_depend d
   WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.refobjsubid = %(column_number)s
     AND d.deptype <> 'i'),
views AS (
  SELECT r.ev_class AS oid, true AS direct
    FROM direct x JOIN pg_rewrite r ON x.classid = 'pg_rewrite'::regclass AND r.oid = x.objid
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm') AND r.rulename = '_RETURN'
  UNION
  SELECT r.ev_class, false
    FROM views v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid
                                 AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> v.oid AND r.rulename = '_RETURN'
)
SELECT f.kind || CASE WHEN f.direct AND f.words ~ t.by_position THEN ' by position' ELSE '' END AS kind,
       f.name, f.oid, f.direct, f.owned
  FROM (
SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
       format('%%I.%%I', n.nspname, c.relname) AS name, v.oid::bigint AS oid, bool_or(v.direct) AS direct,
       pg_has_role(c.relowner, 'MEMBER') AS owned, pg_get_viewdef(v.oid) AS words
  FROM views v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 GROUP BY 1, 2, 3, 5, 6
UNION ALL
SELECT CASE WHEN EXISTS (SELECT FROM views v JOIN pg_class c ON c.oid = v.oid AND c.relkind = 'v'
                          WHERE v.oid = r.ev_class AND v.direct) THEN 'view rule' ELSE 'rule' END,
       r.rulename::text, r.oid::bigint, true, true, pg_get_ruledef(r.oid)
  FROM direct x JOIN pg_rewrite r ON x.classid = 'pg_rewrite'::regclass AND r.oid = x.objid WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT 'index', c.relname::text, c.oid::bigint, true, true, NULL
  FROM direct x JOIN pg_class c ON x.classid = 'pg_class'::regclass AND c.oid = x.objid AND c.relkind IN ('i', 'I')
UNION ALL
SELECT CASE k.contype WHEN 'c' THEN 'check constraint' WHEN 'n' THEN 'not null constraint' WHEN 'f' THEN 'foreign key'
                      WHEN 'x' THEN 'exclusion constraint' ELSE 'unique constraint' END,
       k.conname::text, k.oid::bigint, true, true, NULL
  FROM direct x JOIN pg_constraint k ON x.classid = 'pg_constraint'::regclass AND k.oid = x.objid
UNION ALL
SELECT CASE WHEN a.attgenerated <> '' THEN 'generated column' ELSE 'default' END, a.attname::text, f.oid::bigint, true, true, NULL
  FROM direct x JOIN pg_attrdef f ON x.classid = 'pg_attrdef'::regclass AND f.oid = x.objid
  JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
UNION ALL
SELECT 'trigger', t.tgname::text, t.oid::bigint, true, true, NULL
  FROM direct x JOIN pg_trigger t ON x.classid = 'pg_trigger'::regclass AND t.oid = x.objid
 WHERE t.tgname NOT LIKE '%%\_\_migrator'
UNION ALL
SELECT CASE WHEN p.polrelid = %(oid)s THEN 'row policy' ELSE 'row policy of another table' END,
       p.polname::text, p.oid::bigint, true, true,
       concat(pg_get_expr(p.polqual, p.polrelid), ' ', pg_get_expr(p.polwithcheck, p.polrelid))
  FROM direct x JOIN pg_policy p ON x.classid = 'pg_policy'::regclass AND p.oid = x.objid
UNION ALL
SELECT 'function', p.oid::regprocedure::text, p.oid::bigint, true, pg_has_role(p.proowner, 'MEMBER'), pg_get_functiondef(p.oid)
  FROM direct x JOIN pg_proc p ON x.classid = 'pg_proc'::regclass AND p.oid = x.objid
UNION ALL
SELECT 'extended statistics', s.stxname::text, s.oid::bigint, true, pg_has_role(s.stxowner, 'MEMBER'), NULL
  FROM direct x JOIN pg_statistic_ext s ON x.classid = 'pg_statistic_ext'::regclass AND s.oid = x.objid
UNION ALL
SELECT 'publication column list', p.pubname::text, p.oid::bigint, true, pg_has_role(p.pubowner, 'MEMBER'), NULL
  FROM direct x JOIN pg_publication_rel r ON x.classid = 'pg_publication_rel'::regclass AND r.oid = x.objid
  JOIN pg_publication p ON p.oid = r.prpubid
) AS f
 CROSS JOIN (SELECT format('(^|[[:space:].(])%%s ("[^"]+"|[[:alnum:]_]+)\(',
                           regexp_replace(quote_ident(relname), '[^[:alnum:]_[:space:]]', '\\\&', 'g')) AS by_position
               FROM pg_class WHERE oid = %(oid)s) AS t
 ORDER BY 1, 2

-- name: of_partitions
-- What hangs on the column of one partition and is no part of anything on the partitioned table itself: views over
-- the partition, constraints, triggers, grants, a default and unique indexes of its own. Its other indexes have twins.
-- locks: none.
WITH leaf AS (
  SELECT p.relid::oid AS oid, p.relid::regclass::text AS name, a.attnum AS number, a.attacl AS acl
    FROM pg_partition_tree(%(oid)s::oid) AS p
    JOIN pg_attribute a ON a.attrelid = p.relid AND a.attname = %(column)s AND NOT a.attisdropped
   WHERE p.relid <> %(oid)s::oid)
SELECT l.name AS partition,
       CASE WHEN d.classid = 'pg_rewrite'::regclass THEN 'view or rule' WHEN d.classid = 'pg_class'::regclass THEN 'index'
            WHEN d.classid = 'pg_constraint'::regclass THEN 'constraint' WHEN d.classid = 'pg_trigger'::regclass THEN 'trigger'
            ELSE 'object' END AS kind,
       pg_describe_object(d.classid, d.objid, 0) AS name
  FROM leaf l
  JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = l.oid AND d.refobjsubid = l.number
                  AND d.deptype <> 'i'
 WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
                    WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid AND (c.relispartition OR NOT i.indisunique))
   AND NOT EXISTS (SELECT FROM pg_constraint k WHERE d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
                      AND (k.conparentid <> 0 OR k.coninhcount > 0))
   AND NOT EXISTS (SELECT FROM pg_trigger t WHERE d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
                      AND (t.tgparentid <> 0 OR t.tgname LIKE '%%\_\_migrator'))
   AND NOT EXISTS (SELECT FROM pg_attrdef f JOIN pg_attribute w ON w.attrelid = %(oid)s AND w.attname = %(column)s
                     JOIN pg_attrdef g ON g.adrelid = w.attrelid AND g.adnum = w.attnum
                    WHERE d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
                      AND pg_get_expr(f.adbin, f.adrelid) = pg_get_expr(g.adbin, g.adrelid))
UNION ALL
SELECT l.name, 'column grant', array_to_string(l.acl, ', ') FROM leaf l WHERE l.acl IS NOT NULL
ORDER BY 1, 2, 3

-- name: by_name
-- Functions whose text names the column, and the table or a trigger of it that they serve: they look names up when they
-- are called, so they follow by themselves. Words are all that is compared, so it may name one too many.
-- locks: none.
SELECT p.oid::regprocedure::text AS name
  FROM pg_class c JOIN pg_proc p ON p.prosqlbody IS NULL JOIN pg_language l ON l.oid = p.prolang
 CROSS JOIN LATERAL (SELECT '\m' || regexp_replace(c.relname, '([^[:alnum:]_])', '\\\1', 'g') || '\M' AS of_table,
                            '\m' || regexp_replace(%(column)s, '([^[:alnum:]_])', '\\\1', 'g') || '\M' AS of_column) AS words
 WHERE c.oid = %(oid)s AND l.lanname NOT IN ('c', 'internal') AND p.pronamespace <> 'pg_catalog'::regnamespace
   AND p.pronamespace::regnamespace::text <> 'migrator' AND p.prosrc ~* words.of_column
   AND (p.prosrc ~* words.of_table OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgfoid = p.oid))
 ORDER BY 1

-- name: whole_rows
-- Who takes rows of the table as they stand (H16): functions whose text does, or that take or return its row type, and
-- columns that store rows of that type. Of functions words are all that is compared, so it may name one too many.
-- locks: none.
SELECT CASE WHEN f.how = 'stores rows' THEN 'column' ELSE 'function' END AS kind, f.name,
       string_agg(f.how, ', ' ORDER BY f.how) AS how
  FROM (SELECT p.oid::regprocedure::text AS name, k.how
          FROM pg_class c JOIN pg_type t ON t.oid = c.reltype
          JOIN pg_proc p ON p.prosqlbody IS NULL JOIN pg_language l ON l.oid = p.prolang
         CROSS JOIN LATERAL (SELECT '("?\w+"?\s*\.\s*)?"?' || regexp_replace(c.relname, '([^[:alnum:]_])', '\\\1', 'g') || '"?' AS name) AS w
         CROSS JOIN LATERAL (VALUES
           ('SELECT *', p.prosrc ~* ('\mselect\s+(\w+\s*\.\s*)?\*[^;]*\s(from|join)\s+(only\s+)?' || w.name || '($|[\s,;)])')),
           ('INSERT without a column list', p.prosrc ~* ('\minsert\s+into\s+' || w.name || '\s+(as\s+\w+\s+)?(values|select|table|with)\M')),
           ('%%ROWTYPE', p.prosrc ~* (w.name || '\s*%%\s*rowtype\M')),
           ('OLD.* or NEW.*', p.prosrc ~* '\m(old|new)\s*\.\s*\*'
                              AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgfoid = p.oid)),
           ('takes or returns its rows', p.prorettype IN (t.oid, t.typarray)
                                         OR t.oid = ANY (p.proargtypes::oid[]) OR t.typarray = ANY (p.proargtypes::oid[])))
               AS k (how, does)
         WHERE c.oid = %(oid)s AND k.does AND l.lanname NOT IN ('c', 'internal')
           AND p.pronamespace NOT IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('pg_catalog', 'migrator'))
         UNION ALL
        SELECT a.attrelid::regclass::text || '.' || quote_ident(a.attname), 'stores rows'
          FROM pg_class c JOIN pg_type t ON t.oid = c.reltype JOIN pg_attribute a ON a.atttypid IN (t.oid, t.typarray)
          JOIN pg_class o ON o.oid = a.attrelid AND o.relkind IN ('r', 'p', 'm')
         WHERE c.oid = %(oid)s AND NOT a.attisdropped) AS f
 GROUP BY 1, f.name ORDER BY 1, 2

-- name: indexes
-- The indexes over the column, as they must be made again over the shadow; a part of a partitioned index is no index of
-- its own. `definition` is what stands behind USING: with
-- search_path = pg_catalog PostgreSQL qualifies everything in it but the table's own columns.
SELECT i.indrelid::bigint AS heap_oid, nsh.nspname::text AS schema, h.relname::text AS table,
       c.oid::bigint AS oid, c.relname::text AS name, am.amname::text AS method, i.indnatts::int AS columns,
       i.indexprs IS NOT NULL AS has_expressions, pg_get_expr(i.indpred, i.indrelid) AS predicate,
       %(column_number)s = ANY(i.indkey::int2[]) AS on_column, i.indisvalid AS valid, i.indisunique AS is_unique,
       c.relkind = 'I' AS is_partitioned,
       o.opcname::text AS opclass, nso.nspname::text AS opclass_schema, c.reloptions AS options,
       t.spcname::text AS tablespace,
       coalesce((SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(c.oid) AS p WHERE p.isleaf)::bigint,
                pg_relation_size(c.oid)) AS bytes,
       substr(pg_get_indexdef(c.oid), length(format('CREATE %%sINDEX %%I ON %%s%%s USING ',
         CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname, CASE WHEN c.relkind = 'I' THEN 'ONLY ' ELSE '' END,
         i.indrelid::regclass)) + 1) AS definition,
       CASE WHEN (i.indkey::int2[])[0] = 0 THEN pg_get_indexdef(c.oid, 1, false) END AS expression
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition JOIN pg_am am ON am.oid = c.relam
  JOIN pg_class h ON h.oid = i.indrelid JOIN pg_namespace nsh ON nsh.oid = h.relnamespace
  JOIN pg_opclass o ON o.oid = i.indclass[0] JOIN pg_namespace nso ON nso.oid = o.opcnamespace
  LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
 WHERE i.indrelid = %(oid)s
   AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = %(column_number)s)
 ORDER BY c.relname

-- name: fingerprint
-- What must not have changed between plan and start, and between start and swap: {part: text}, without what is ours.
-- locks: none. Without parameters, since the swap runs it once more inside its own message.
SELECT 'table' AS part, c.relkind::text || c.oid::text AS text FROM pg_class c WHERE c.oid = {oid}
UNION ALL
SELECT 'column ' || a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull AND a.attname <> {column} THEN ' not null' ELSE '' END
       || CASE WHEN a.attgenerated <> '' THEN ' generated' ELSE '' END
       || CASE WHEN a.attname = {column} THEN '' ELSE coalesce(' ' || a.attacl::text, '') END
  FROM pg_attribute a WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attname NOT LIKE '%\_\_migrator'
UNION ALL
SELECT 'constraint ' || k.conname, pg_get_constraintdef(k.oid) FROM pg_constraint k
 WHERE k.conrelid = {oid} AND k.conname NOT LIKE '%\_\_migrator'
   AND NOT (k.contype = 'n' AND k.conkey = ARRAY(SELECT a.attnum FROM pg_attribute a
                                                  WHERE a.attrelid = {oid} AND a.attname = {column}))
UNION ALL
SELECT 'trigger ' || t.tgname, pg_get_triggerdef(t.oid) || t.tgenabled::text
  FROM pg_trigger t WHERE t.tgrelid = {oid} AND NOT t.tgisinternal AND t.tgname NOT LIKE '%\_\_migrator'
UNION ALL
SELECT 'policy ' || p.polname, coalesce(pg_get_expr(p.polqual, p.polrelid), '') || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '')
  FROM pg_policy p WHERE p.polrelid = {oid}
UNION ALL
SELECT 'view ' || v.name, pg_get_viewdef(v.oid) || coalesce(v.options, '') FROM (
  SELECT DISTINCT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.reloptions::text AS options
    FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm') JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = {oid}) AS v
UNION ALL
SELECT 'publication ' || t.pubname,
       (SELECT string_agg(each, ',' ORDER BY each) FROM unnest(t.attnames) AS each WHERE each NOT LIKE '%\_\_migrator')
  FROM pg_publication_tables t JOIN pg_class c ON c.relname = t.tablename
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = t.schemaname
 WHERE c.oid = {oid}
UNION ALL
-- Whichever names it: the table or a partition, its schema, or all tables.
SELECT 'publication ' || p.pubname || ' of ' || p.how, p.words FROM (
  SELECT p.pubname, r.prrelid::regclass::text AS how, coalesce(pg_get_expr(r.prqual, r.prrelid), '') AS words
    FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
   WHERE r.prrelid = {oid} OR r.prrelid IN (SELECT t.relid FROM pg_partition_tree({oid}::oid) AS t)
   UNION ALL SELECT p.pubname, 'all tables', '' FROM pg_publication p WHERE p.puballtables
   UNION ALL
  SELECT p.pubname, 'the schema', '' FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
    JOIN pg_class c ON c.oid = {oid} AND c.relnamespace = s.pnnspid) AS p
ORDER BY 1
