-- Rights: what gives one to a role, as `migrator grants`, a plan's findings and the throttle print it; and what is looked
-- at to know who needs which. Nothing of ours runs the first kind: an administrator does.

-- name: make_role
-- locks: none.   idempotent: yes.
DO {body}

-- name: made_role
-- The block of it.
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN
    CREATE ROLE {role} LOGIN;
  END IF;
END

-- name: connect
-- idempotent: yes.
GRANT CONNECT ON DATABASE {database} TO {role}

-- name: use_schema
-- idempotent: yes.
GRANT USAGE ON SCHEMA {schema} TO {role}

-- name: make_in_schema
-- idempotent: yes.
GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}

-- name: read_table
-- idempotent: yes.
GRANT SELECT ON {table} TO {role}

-- name: be_owner
-- idempotent: yes.
GRANT {owner} TO {role}

-- name: own_state
-- Narrower than CREATE on the database, which `init` would need to make it.
-- idempotent: yes.
CREATE SCHEMA IF NOT EXISTS migrator AUTHORIZATION {role}

-- name: take_over_state
-- locks: ACCESS EXCLUSIVE on our tables, until commit; each is waited for no longer than two seconds, then nothing is done.
-- idempotent: yes.
DO {body}

-- name: taken_over_state
-- The block of it. Identity columns' sequences follow their tables, indexes too.
DECLARE
  each text;
BEGIN
  PERFORM set_config('lock_timeout', '2s', true);
  FOR each IN
    SELECT format('ALTER SCHEMA %I OWNER TO %I', n.nspname, {name})
      FROM pg_namespace n WHERE n.nspname = 'migrator' AND n.nspowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = {name})
    UNION ALL
    SELECT format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, {name})
      FROM pg_class c WHERE c.relnamespace = 'migrator'::regnamespace AND c.relkind = 'r'
       AND c.relowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = {name})
    UNION ALL
    SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, {name})
      FROM pg_proc p WHERE p.pronamespace = 'migrator'::regnamespace
       AND p.proowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = {name})
  LOOP
    EXECUTE each;
  END LOOP;
END

-- name: see_others
-- idempotent: yes.
GRANT pg_monitor TO {role}

-- name: silence_triggers
-- PostgreSQL 15.
-- idempotent: yes.
GRANT SET ON PARAMETER session_replication_role TO {role}

-- name: see_every_row
-- locks: none on a table.   idempotent: yes.
ALTER ROLE {role} BYPASSRLS

-- name: read_state
-- idempotent: yes.
GRANT SELECT ON ALL TABLES IN SCHEMA migrator TO {role}

-- name: read_later_state
-- locks: none on a table.   idempotent: yes.
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA migrator GRANT SELECT ON TABLES TO {role}

-- name: declare
-- PostgreSQL 15.
-- idempotent: yes.
GRANT SET ON PARAMETER migrator.generation TO {role}

-- name: owners
-- Who owns the table, its partitions and what hangs on the column, and in which schemas those are.
-- locks: none.
SELECT DISTINCT r.rolname::text AS owner, r.rolsuper AS superuser, n.nspname::text AS schema
  FROM (SELECT c.relowner AS owner, c.relnamespace AS namespace FROM pg_class c
         WHERE c.oid = %(oid)s OR c.oid = ANY (%(views)s::oid[])
            OR c.oid IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::oid) AS p)
        UNION ALL
        SELECT p.proowner, p.pronamespace FROM pg_proc p WHERE p.oid = ANY (%(functions)s::oid[])
        UNION ALL
        SELECT s.stxowner, s.stxnamespace FROM pg_statistic_ext s WHERE s.oid = ANY (%(statistics)s::oid[])
        UNION ALL
        SELECT p.pubowner, NULL FROM pg_publication p WHERE p.oid = ANY (%(publications)s::oid[])) AS o
  JOIN pg_roles r ON r.oid = o.owner LEFT JOIN pg_namespace n ON n.oid = o.namespace
 ORDER BY 1, 3

-- name: state_owners
-- Whose schema `migrator` is, and all that is in it; nobody's where it is missing.
-- locks: none.
SELECT r.rolname::text AS owner, r.rolsuper AS superuser
  FROM pg_namespace n
 CROSS JOIN LATERAL (SELECT n.nspowner AS owner
                     UNION SELECT c.relowner FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
                     UNION SELECT p.proowner FROM pg_proc p WHERE p.pronamespace = n.oid) AS o
  JOIN pg_roles r ON r.oid = o.owner
 WHERE n.nspname = 'migrator'
 ORDER BY 1
