-- Who is sent the vector column.

-- name: find
-- A partitioned table is published under its own name or under its partitions', as the publication says.
-- locks: none.
WITH tree AS (SELECT %(oid)s::oid AS oid UNION SELECT p.relid::oid FROM pg_partition_tree(%(oid)s::oid) AS p)
SELECT p.pubname::text AS name, p.puballtables AS all_tables,
       p.puballtables
         OR EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class c ON c.relnamespace = s.pnnspid
                     WHERE s.pnpubid = p.oid AND c.oid IN (SELECT t.oid FROM tree t))
         OR EXISTS (SELECT FROM pg_publication_rel r
                     WHERE r.prpubid = p.oid AND r.prattrs IS NULL AND r.prrelid IN (SELECT t.oid FROM tree t))
         AS whole_row
  FROM pg_publication p
 WHERE EXISTS (SELECT FROM pg_publication_tables t
                 JOIN pg_namespace n ON n.nspname = t.schemaname
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                WHERE t.pubname = p.pubname AND c.oid IN (SELECT t.oid FROM tree t) AND %(column)s = ANY(t.attnames))
 ORDER BY 1
