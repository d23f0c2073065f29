-- Every vector of the column, looked at once, window by window; and those of some keys. All but `forget` only reads.

-- name: window
-- What the gates ask of each vector of a window, as one row of arrays. The vectors stay in the server: what they cost
-- is to be taken out of TOAST, once (`whole` makes them whole, and OFFSET 0 keeps that from being done once for each
-- use), not to be sent; and no text leaves the table. Length and product together are a vector's fingerprint: equal
-- vectors have equal ones, and others agree in some 50 bits only by chance.
-- `since`: only rows written by that transaction or a later one, wherever they lie.
-- locks: none.
SELECT array_agg(s.place) AS places,
       array_agg({norm}(s.vector)) AS norms,
       array_agg({along}) AS along,
       array_agg(hashtextextended(s.body, 0)) AS texts,
       array_agg(s.body !~ '\S') AS wordless
  FROM (SELECT t.ctid AS place, {text} AS body, {whole} AS vector
          FROM {heap} AS t
         WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid AND t.{column} IS NOT NULL
           AND (%(since)s::text IS NULL OR age(t.xmin) <= age(%(since)s::text::xid))
        OFFSET 0) AS s

-- name: since
-- The oldest transaction at work: what was written before it lies still, or was moved by it or a later one.
-- locks: none.
SELECT mod(pg_snapshot_xmin(pg_current_snapshot())::text::numeric, 4294967296)::text AS xid

-- name: closely
-- Some rows of a window with both their vectors.
-- locks: none.
SELECT {key} AS key, {whole} AS vector, {whole_old} AS old
  FROM {heap} AS t
 WHERE t.ctid = ANY (%(places)s::text[]::tid[]) AND t.{column} IS NOT NULL

-- name: keys
-- Keys of some rows.
-- locks: none.
SELECT {key} AS key FROM {heap} AS t WHERE t.ctid = ANY (%(places)s::text[]::tid[])

-- name: folded
-- Some rows' texts without their case and their spaces, hashed: models that see neither give such texts one vector.
-- locks: none.
SELECT {key} AS key, t.ctid::text AS place,
       hashtextextended(regexp_replace(lower({text}), '\s+', '', 'g'), 0) AS text
  FROM {heap} AS t
 WHERE t.ctid = ANY (%(places)s::text[]::tid[])

-- name: pairs
-- Random rows with a vector of either generation. A third of them, told by their keys, teaches; the others judge.
-- locks: none.
SELECT s.old, s.new
  FROM (SELECT {whole_old} AS old, {whole} AS new
          FROM {table} AS t TABLESAMPLE BERNOULLI (%(percent)s) REPEATABLE (%(seed)s)
         WHERE t.{old_column} IS NOT NULL AND t.{column} IS NOT NULL
           AND (hashtextextended({key}::text, %(seed)s::bigint) %% 3 = 0) = %(teaching)s::boolean
        OFFSET 0) AS s
 WHERE {dims_of}(s.old) = %(dims)s AND {dims_of}(s.new) = %(dims)s
 LIMIT %(wanted)s

-- name: by_keys
-- The vectors of a few rows.
-- locks: none.
SELECT {key} AS key, {whole} AS vector
  FROM {table} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}
 WHERE t.{column} IS NOT NULL

-- name: take
-- The same, of rows that nobody else holds: they are looked at, and what is suspect is taken back.
-- locks: the rows, until commit; a row that somebody else holds is passed over (H17).   idempotent: yes.
SELECT {key} AS key, {whole} AS vector
  FROM {table} AS t JOIN unnest({key_arrays}) AS v ({key_names}) ON {key_equals}
 WHERE t.{column} IS NOT NULL
   FOR NO KEY UPDATE OF t SKIP LOCKED

-- name: forget
-- Take back vectors of rows that are held.
-- locks: the rows, held already.   idempotent: yes.
UPDATE {table} AS t SET {column} = NULL FROM unnest({key_arrays}) AS v ({key_names}) WHERE {key_equals}
