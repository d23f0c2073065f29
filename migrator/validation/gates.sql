-- What the gates measure over the operator's table. All of it only reads.

-- name: structure
-- Every row: is a vector there where one must be, of the right dimensions, and not zero? (NaN and infinity can't be:
-- pgvector refuses them.) `uncovered`: text in scope, a vector in the live column, none in the shadow, and neither a
-- hint nor a disposition that says why. `wordless`: a new vector where there is no text. Reads the whole table, once a
-- validation: a gate over 100 % of the rows can't look at fewer, and one snapshot keeps rows from moving past it.
-- locks: none.
SELECT count(*) AS rows, count(s.vector) AS embedded,
       count(*) FILTER (WHERE s.vector IS NULL AND d.key IS NULL AND p.key IS NULL AND s.in_scope) AS uncovered,
       count(*) FILTER (WHERE s.vector IS NOT NULL AND s.body !~ '\S') AS wordless,
       count(*) FILTER (WHERE {dims_of_vector} <> %(dims)s) AS misshapen,
       count(*) FILTER (WHERE {norm_of_vector} = 0) AS zero,
       count(*) FILTER (WHERE p.kind = 'quarantined') AS quarantined,
       count(*) FILTER (WHERE s.in_scope) AS in_scope
  FROM (SELECT {key} AS key, {text} AS body, {in_scope} AS in_scope, t.{column} AS vector FROM {table} AS t) AS s
  LEFT JOIN (SELECT DISTINCT key FROM migrator.dirty WHERE migration_id = %(migration_id)s AND side = 'to') AS d
    ON s.vector IS NULL AND d.key = s.key
  LEFT JOIN (SELECT key, kind FROM migrator.dispositions
              WHERE migration_id = %(migration_id)s AND kind <> 'truncated') AS p
    ON s.vector IS NULL AND p.key = s.key

-- name: sample
-- Random rows that have their new vector, with the text that it must have been made from.
-- locks: none.
SELECT s.key, s.body, s.vector
  FROM (SELECT {key} AS key, {text} AS body, t.{column} AS vector, {in_scope} AS in_scope
          FROM {table} AS t TABLESAMPLE BERNOULLI (%(percent)s) REPEATABLE (%(seed)s)) AS s
 WHERE s.vector IS NOT NULL AND s.in_scope
   AND NOT EXISTS (SELECT FROM migrator.dispositions p
                    WHERE p.migration_id = %(migration_id)s AND p.key = s.key AND p.kind = 'truncated')
 ORDER BY md5(s.key::text || %(seed)s::text) LIMIT %(wanted)s
