-- What a plan reads of the operator's own rows. All of it by a role that may do no more than SELECT.

-- name: page_rows
-- Every row of pages that were drawn: its length, and what else tells without reading a long text. A text is put
-- together only up to %(look)s bytes; the length of a longer one is known without fetching it. `heap` is the heap itself
-- where it may be read, else the table above it. Pages that are not there have no rows.
-- locks: none.   idempotent: yes.
SELECT (s.ctid::text::point)[0]::bigint AS page, (s.ctid::text::point)[1]::int AS place, s.octets, s.in_scope, s.all_null,
       s.has_vector, s.age, CASE WHEN s.octets <= %(look)s THEN s.body !~ '\S' ELSE false END AS blank,
       CASE WHEN s.octets BETWEEN 1 AND %(look)s THEN hashtextextended(s.body, 0) END AS hash
  FROM (SELECT t.ctid, {octets} AS octets, {text} AS body, {in_scope} AS in_scope, {all_null} AS all_null,
               t.{column} IS NOT NULL AS has_vector, {age} AS age
          FROM {heap} AS t
         WHERE t.tableoid = %(oid)s::oid
           AND t.ctid = ANY (ARRAY(SELECT format('(%%s,%%s)', p.page, o.place)::tid
                                     FROM unnest(%(pages)s::bigint[]) AS p (page), generate_series(1, %(places)s) AS o (place)))
       ) AS s

-- name: texts
-- The texts of rows that were drawn, each up to so many characters, with their whole length.
-- locks: none.   idempotent: yes.
SELECT (t.ctid::text::point)[0]::bigint AS page, {octets} AS octets, left({text}, %(characters)s) AS body
  FROM {heap} AS t
 WHERE t.tableoid = %(oid)s::oid AND t.ctid = ANY (%(tids)s::tid[])

-- name: counts
-- Exact counts in one pass. `all_null`, `empty`, `blank` are rows in scope that have no text to embed; `octets` are the
-- bytes of the others' texts, of each that is longer than %(longest)s only %(kept)s.
-- locks: none.   idempotent: yes.
SELECT count(*) AS rows,
       count(*) FILTER (WHERE s.in_scope) AS in_scope,
       count(*) FILTER (WHERE s.in_scope AND s.all_null) AS all_null,
       count(*) FILTER (WHERE s.in_scope AND NOT s.all_null AND s.body = '') AS empty,
       count(*) FILTER (WHERE s.in_scope AND NOT s.all_null AND s.body <> '' AND s.body !~ '\S') AS blank,
       count(*) FILTER (WHERE s.in_scope AND s.body ~ '\S' AND NOT s.has_vector) AS text_without_vector,
       count(*) FILTER (WHERE s.in_scope AND s.body !~ '\S' AND s.has_vector) AS vector_without_text,
       count(*) FILTER (WHERE s.in_scope AND NOT s.all_null AND s.octets > %(longest)s AND s.body ~ '\S') AS too_long,
       coalesce(sum(CASE WHEN s.octets > %(longest)s THEN %(kept)s::bigint ELSE s.octets END)
                FILTER (WHERE s.in_scope AND NOT s.all_null AND s.body ~ '\S'), 0)::bigint AS octets
  FROM (SELECT {octets} AS octets, {text} AS body, {all_null} AS all_null, {in_scope} AS in_scope,
               t.{column} IS NOT NULL AS has_vector
          FROM {table} AS t) AS s

-- name: activity
-- What the table saw since its statistics began: since they were reset, where that ever happened.
-- locks: none.   idempotent: yes.
SELECT coalesce(sum(s.n_tup_ins), 0)::bigint AS inserted, coalesce(sum(s.n_tup_upd), 0)::bigint AS updated,
       coalesce(sum(s.n_tup_del), 0)::bigint AS deleted,
       extract(epoch FROM now() - (SELECT d.stats_reset FROM pg_stat_database AS d WHERE d.datname = current_database()))::float8
         AS seconds
  FROM pg_stat_all_tables AS s WHERE s.relid = ANY(%(oids)s::oid[])

-- name: moments
-- Columns of moments with what fills them by default: one of them may tell when a row arrived.
-- locks: none.   idempotent: yes.
SELECT a.attname::text AS name, coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS filled_by
  FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
   AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)
 ORDER BY a.attnum
