-- What the structure gate asks of all rows together.

-- name: coverage
-- Coverage (H19): text in scope, no vector, and neither a hint nor a disposition that says why. One statement, one
-- snapshot: a row's NULL and its hint come from one transaction and are seen together, and no row moves past it. It
-- can't be cut into windows, and need not be: it looks at no vector and no text, only at whether there is one.
-- locks: none.
SELECT count(*) AS rows, count(t.{column}) AS embedded,
       count(*) FILTER (WHERE t.{column} IS NULL AND d.key IS NULL AND p.key IS NULL AND {in_scope}) AS uncovered,
       count(*) FILTER (WHERE p.kind = 'quarantined') AS quarantined,
       count(*) FILTER (WHERE {in_scope}) AS in_scope
  FROM {table} AS t
  LEFT JOIN (SELECT DISTINCT key FROM migrator.dirty WHERE migration_id = %(migration_id)s AND side = 'to') AS d
    ON t.{column} IS NULL AND d.key = {key}
  LEFT JOIN (SELECT key, kind FROM migrator.dispositions
              WHERE migration_id = %(migration_id)s AND kind <> 'truncated') AS p
    ON t.{column} IS NULL AND p.key = {key}
