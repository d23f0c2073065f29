"""Every kind of thing that hangs on a vector column, each by itself: SQL that makes one of it on a table docs."""

from __future__ import annotations

#: What kinds refer to; they belong to the cluster.
ROLES = ("matrix_reader", "matrix_owner")

_NOTE = """
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
"""
_INSTEAD = """
    CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN UPDATE public.docs SET embedding = NEW.embedding WHERE id = NEW.id; RETURN NEW; END';
"""
_NEAREST = """
    CREATE FUNCTION nearest(q vector) RETURNS SETOF bigint LANGUAGE sql STABLE
      BEGIN ATOMIC SELECT id FROM docs ORDER BY embedding <=> q LIMIT 3; END;
"""
_STATISTICS = "CREATE STATISTICS both_of_them (ndistinct, dependencies) ON n, embedding FROM docs;"

KINDS: dict[str, str] = {
    "nothing": "",
    # Views
    "view": "CREATE VIEW v AS SELECT id, embedding FROM docs",
    "view of a view": """CREATE VIEW v AS SELECT id, embedding FROM docs WHERE n >= 0;
        CREATE VIEW outer_v AS SELECT v.embedding, d.embedding AS again FROM v JOIN docs d USING (id);
        CREATE VIEW outermost AS SELECT count(*) FROM outer_v WHERE again IS NOT NULL""",
    "view with security_invoker": """CREATE VIEW v WITH (security_invoker = true, security_barrier = true)
        AS SELECT id, embedding FROM docs""",
    "view with check option": "CREATE VIEW v AS SELECT id, embedding FROM docs WHERE n >= 0 WITH LOCAL CHECK OPTION",
    "view of another owner": "CREATE VIEW v AS SELECT id, embedding FROM docs; ALTER VIEW v OWNER TO matrix_owner",
    "view grants": """CREATE VIEW v AS SELECT id, embedding FROM docs; GRANT SELECT ON v TO matrix_reader, PUBLIC;
        GRANT UPDATE (embedding) ON v TO matrix_reader WITH GRANT OPTION""",
    "view comments": """CREATE VIEW v AS SELECT id, embedding FROM docs; COMMENT ON VIEW v IS 'the shop''s';
        COMMENT ON COLUMN v.embedding IS 'searched'""",
    "view column default": """CREATE VIEW v AS SELECT id, embedding FROM docs;
        ALTER VIEW v ALTER COLUMN embedding SET DEFAULT array_fill(0.125::real, ARRAY[64])::vector""",
    "view with instead-of trigger": f"""{_INSTEAD} CREATE VIEW v AS SELECT id, embedding FROM docs;
        CREATE TRIGGER put INSTEAD OF UPDATE ON v FOR EACH ROW EXECUTE FUNCTION instead();
        COMMENT ON TRIGGER put ON v IS 'puts'""",
    "view rule": """CREATE VIEW v AS SELECT id, embedding FROM docs;
        CREATE RULE put AS ON UPDATE TO v DO INSTEAD UPDATE docs SET embedding = NEW.embedding WHERE id = OLD.id;
        COMMENT ON RULE put ON v IS 'puts'""",
    "recursive view": """CREATE RECURSIVE VIEW v (id, embedding) AS
        SELECT id, embedding FROM docs WHERE id = 1 UNION ALL
        SELECT d.id, d.embedding FROM docs d JOIN v ON d.id = v.id + 1""",
    "view of whole rows": "CREATE VIEW v AS SELECT (d).embedding, (d).id FROM (SELECT d FROM docs d) AS s",
    # Functions
    "function": _NEAREST,
    "function with everything": f"""{_NEAREST} ALTER FUNCTION nearest SET work_mem = '8MB' SET search_path = public;
        ALTER FUNCTION nearest COST 7 ROWS 3 PARALLEL SAFE; ALTER FUNCTION nearest SECURITY DEFINER;
        ALTER FUNCTION nearest OWNER TO matrix_owner; COMMENT ON FUNCTION nearest IS 'near';
        REVOKE ALL ON FUNCTION nearest FROM PUBLIC; GRANT EXECUTE ON FUNCTION nearest TO matrix_reader""",
    "function by RETURN": """CREATE FUNCTION has_vector(which bigint) RETURNS bool LANGUAGE sql STABLE
        RETURN EXISTS (SELECT FROM docs WHERE id = which AND embedding IS NOT NULL)""",
    "procedure": """CREATE PROCEDURE forget_vector(which bigint) LANGUAGE sql
          BEGIN ATOMIC UPDATE docs SET embedding = NULL WHERE id = which; END;
        COMMENT ON PROCEDURE forget_vector IS 'forgets'; GRANT EXECUTE ON PROCEDURE forget_vector TO matrix_reader""",
    "function of a view": """CREATE VIEW v AS SELECT id, embedding FROM docs;
        CREATE FUNCTION one() RETURNS vector LANGUAGE sql STABLE BEGIN ATOMIC SELECT embedding FROM v LIMIT 1; END""",
    # Triggers
    "trigger": f"""{_NOTE} CREATE TRIGGER moved AFTER UPDATE OF embedding, title ON docs
        FOR EACH ROW EXECUTE FUNCTION note('an argument');
        COMMENT ON TRIGGER moved ON docs IS 'for the cache'""",
    "trigger with WHEN": f"""{_NOTE} CREATE TRIGGER moved AFTER UPDATE ON docs FOR EACH ROW
        WHEN (OLD.embedding IS DISTINCT FROM NEW.embedding) EXECUTE FUNCTION note()""",
    "statement trigger": f"""{_NOTE} CREATE TRIGGER moved AFTER UPDATE OF embedding ON docs
        FOR EACH STATEMENT EXECUTE FUNCTION note()""",
    "constraint trigger": f"""{_NOTE} CREATE CONSTRAINT TRIGGER moved AFTER UPDATE OF embedding ON docs
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()""",
    "trigger disabled": f"""{_NOTE} CREATE TRIGGER moved AFTER UPDATE OF embedding ON docs
        FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE docs DISABLE TRIGGER moved;
        COMMENT ON TRIGGER moved ON docs IS 'asleep'""",
    "trigger ENABLE REPLICA": f"""{_NOTE} CREATE TRIGGER moved AFTER UPDATE OF embedding ON docs
        FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE docs ENABLE REPLICA TRIGGER moved""",
    "trigger ENABLE ALWAYS": f"""{_NOTE} CREATE TRIGGER moved AFTER UPDATE OF embedding ON docs
        FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE docs ENABLE ALWAYS TRIGGER moved""",
    # The column's own
    "check": """ALTER TABLE docs ADD CONSTRAINT unit CHECK (vector_norm(embedding) < 1.5);
        COMMENT ON CONSTRAINT unit ON docs IS 'as the model promises'""",
    "check NOT VALID": "ALTER TABLE docs ADD CONSTRAINT young CHECK (vector_dims(embedding) = 64) NOT VALID",
    "not null": "ALTER TABLE docs ALTER embedding SET NOT NULL",
    "not null by name": """ALTER TABLE docs ADD CONSTRAINT "always there" NOT NULL embedding;
        COMMENT ON CONSTRAINT "always there" ON docs IS 'searched'""",
    "default": "ALTER TABLE docs ALTER embedding SET DEFAULT array_fill(0.125::real, ARRAY[64])::vector",
    "default by cast": "ALTER TABLE docs ALTER embedding SET DEFAULT NULL::vector(64)",
    "column grants": """GRANT SELECT (id, embedding), UPDATE (embedding) ON docs TO matrix_reader;
        GRANT REFERENCES (embedding) ON docs TO matrix_reader WITH GRANT OPTION;
        GRANT SELECT (embedding) ON docs TO PUBLIC""",
    "comment": "COMMENT ON COLUMN docs.embedding IS 'searched by the shop''s \"front\"'",
    "statistics target": "ALTER TABLE docs ALTER embedding SET STATISTICS 50",
    "statistics target of none": "ALTER TABLE docs ALTER embedding SET STATISTICS 0",
    "storage": "ALTER TABLE docs ALTER embedding SET STORAGE MAIN",
    "compression": "ALTER TABLE docs ALTER embedding SET COMPRESSION pglz",
    "column options": "ALTER TABLE docs ALTER embedding SET (n_distinct = -0.5, n_distinct_inherited = -0.25)",
    # Row policies
    "policy": """CREATE POLICY complete ON docs FOR SELECT USING (embedding IS NOT NULL);
        COMMENT ON POLICY complete ON docs IS 'no half rows'""",
    "policy RESTRICTIVE": """CREATE POLICY unit ON docs AS RESTRICTIVE FOR UPDATE TO matrix_reader, matrix_owner
        USING (true) WITH CHECK (vector_norm(embedding) > 0)""",
    "policy by sub-select": """CREATE POLICY far ON docs FOR DELETE TO PUBLIC
        USING (embedding <=> (SELECT d.embedding FROM docs d WHERE d.id = 1) > 0.1)""",
    # Extended statistics
    "extended statistics": _STATISTICS,
    "extended statistics with everything": f"""{_STATISTICS} ALTER STATISTICS both_of_them SET STATISTICS 77;
        COMMENT ON STATISTICS both_of_them IS 'planner'; ALTER STATISTICS both_of_them OWNER TO matrix_owner""",
    # Indexes
    "expression index": "CREATE INDEX half ON docs USING hnsw ((embedding::halfvec(64)) halfvec_l2_ops)",
    "partial index": "CREATE INDEX part ON docs USING hnsw (embedding vector_ip_ops) WHERE embedding IS NOT NULL",
    "index with INCLUDE": "CREATE INDEX covering ON docs (n) INCLUDE (embedding)",
    "index with parameters": """CREATE INDEX tuned ON docs USING hnsw (embedding vector_l1_ops)
        WITH (m = 8, ef_construction = 32)""",
    "ivfflat index": "CREATE INDEX listed ON docs USING ivfflat (embedding) WITH (lists = 1)",
    "index comment": "COMMENT ON INDEX docs_embedding_idx IS 'the one that is searched'",
    "clustered index": "CREATE INDEX norm ON docs (vector_norm(embedding)); ALTER TABLE docs CLUSTER ON norm",
    "index statistics target": """CREATE INDEX norm ON docs (vector_norm(embedding));
        ALTER INDEX norm ALTER COLUMN 1 SET STATISTICS 33""",
    # Publications
    "publication column list": """CREATE TABLE other (id int PRIMARY KEY, n int);
        CREATE PUBLICATION p FOR TABLE docs (id, embedding) WHERE (id > 0), TABLE other (id)
          WITH (publish = 'insert, update', publish_via_partition_root);
        COMMENT ON PUBLICATION p IS 'for the warehouse'""",
    "publication of the whole row": """CREATE PUBLICATION p FOR TABLE docs WHERE (id > 0)
          WITH (publish_via_partition_root);
        CREATE PUBLICATION q FOR TABLES IN SCHEMA public""",
}  # fmt: skip

#: What PostgreSQL has on plain tables only, or this tool refuses on partitioned ones.
PLAIN_ONLY = {"ivfflat index", "clustered index"}
#: What the spec says besides.
SAID = {"subscribers": "not-searched", "subscribers_have_shadow": True}
#: What fires on rows that are filled, so that the spec must allow it.
FIRING = {"trigger ENABLE ALWAYS"}
