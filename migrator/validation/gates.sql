-- What the gates measure over the operator's table. All of it only reads.

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
