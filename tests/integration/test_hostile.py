"""Hostile surroundings: names that try to be SQL, and schemas whose functions and types pose as built-in ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql as psql

from migrator.cli import app as cli
from migrator.demo.servers import Postgres
from tests.deployment import V3, V4, Deployment, embed, literal

#: Everything that ends a name, a literal, a body or a line, or begins a parameter, in the 63 bytes of one name.
SHARP = "q\"'\\ $capture$ $$ $migrator$ %s %(key)s % :x\n;DROP é✓"
LONG = "long_name_of_sixty_three_bytes_" + "x" * 32
ROLE = "role " + SHARP[:50]


@dataclass(frozen=True)
class Names:
    """What things are called. A template takes plain names, with letters of any alphabet."""

    schema: str
    table: str
    vector: str
    text: str
    key: str

    @classmethod
    def of(cls, name: str, text: str) -> Names:
        short = name.encode()[:61].decode(errors="ignore")
        return cls(name, name, name, text, f"{short}k")


CASES = {"sharp": Names.of(SHARP, SHARP.replace(":x", "")), "long": Names.of(LONG, LONG[:62] + "t")}


class Table:
    """A table whose every name is hostile, moved by the commands in this process."""

    def __init__(self, deployment: Deployment, names: Names, capfd: pytest.CaptureFixture[str]) -> None:
        self.deployment, self.names, self._printed = deployment, names, capfd
        self.table = psql.Identifier(names.schema, names.table)
        self.ids = {name: psql.Identifier(getattr(names, name)) for name in ("vector", "text", "key")}
        self.query(
            "CREATE SCHEMA {schema}; CREATE TABLE {table} ({key} text PRIMARY KEY, {text} text, {vector} vector(64))",
            schema=psql.Identifier(names.schema),
        )
        self.query("CREATE INDEX {index} ON {table} USING hnsw ({vector} vector_cosine_ops)",
                   index=psql.Identifier(names.table[:62] + "i"))  # fmt: skip
        self.query("CREATE VIEW {view} AS SELECT {key}, {vector} FROM {table}",
                   view=psql.Identifier(names.schema, names.table[:62] + "v"))  # fmt: skip
        for number in range(30):
            self.write(f"key {number} %s", f"words {number} alpha{number % 7}", V3)
        deployment.spec_data["target"] = {
            "table": f"{names.schema}.{names.table}",
            "column": names.vector,
            "text": f"{{{names.text}}} $capture$ 100 %s",
            "where": f"\"{names.text.replace(chr(34), chr(34) * 2)}\" NOT LIKE '%%nothing%'",
        }

    def query(self, statement: str, *values: Any, **more: psql.Composable) -> list[Any]:
        """Run a statement of the application's; names are put in as a client does, values besides."""
        written: Any = statement  # by these tests
        said = psql.SQL(written).format(table=self.table, **self.ids, **more).as_string()
        with psycopg.connect(self.deployment.url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            cursor = connection.execute(said.encode(), list(values) or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, key: str, text: str, model: str) -> None:
        vector = literal(embed(model, f"{text} $capture$ 100 %s"))
        self.query(
            "INSERT INTO {table} AS t ({key}, {text}, {vector}) VALUES ($1, $2, $3) ON CONFLICT ({key}) DO UPDATE"
            " SET {text} = excluded.{text}, {vector} = excluded.{vector}",
            key, text, vector,
        )  # fmt: skip

    def wrong(self, model: str) -> list[str]:
        """Keys whose live vector is not that model's."""
        rows = self.query("SELECT {key}, {text}, {vector}::real[] FROM {table}")
        return [
            key
            for key, text, vector in rows
            if vector is None
            or sum(a * b for a, b in zip(vector, embed(model, f"{text} $capture$ 100 %s"), strict=True)) < 0.999
        ]

    def must(self, *words: str) -> str:
        self._printed.readouterr()
        code = cli.run(list(words))
        said = self._printed.readouterr()
        assert code == 0, f"migrator {words}: exit {code}\n{said.out}\n{said.err}"
        return said.out


@pytest.fixture(params=CASES)
def hostile(
    request: pytest.FixtureRequest,
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Table:
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(deployment.home)
    made = Table(deployment, CASES[request.param], capfd)
    assert deployment.spec_file.exists()
    return made


@pytest.fixture
def role(deployment: Deployment) -> Iterator[str]:
    with deployment.connect() as connection:
        connection.execute(psql.SQL("CREATE ROLE {} LOGIN").format(psql.Identifier(ROLE)))
    yield ROLE
    with deployment.connect() as connection:
        connection.execute(psql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(psql.Identifier(ROLE)))


@pytest.fixture
def owners(deployment: Deployment) -> Iterator[dict[str, psql.Identifier]]:
    """The other roles that `grants` makes here, and an owner."""
    named = {letter: psql.Identifier(f"{ROLE}{letter}") for letter in "omw"}
    with deployment.connect() as connection:
        connection.execute(psql.SQL("CREATE ROLE {o}").format(**named))
    yield named
    with deployment.connect() as connection:
        for each in named.values():
            connection.execute(psql.SQL("DO {}").format(psql.Literal(
                psql.SQL("BEGIN DROP OWNED BY {0} CASCADE; DROP ROLE {0}; EXCEPTION WHEN undefined_object THEN END")
                .format(each).as_string())))  # fmt: skip


@pytest.mark.timeout(180)
def test_no_name_is_read_as_sql_in_the_whole_life(hostile: Table, role: str) -> None:
    names = hostile.names
    hostile.must("plan", "docs.toml")
    hostile.must("start", "docs.toml", "--yes")
    hostile.must("fence", "docs", "--role", role, "--generation", "qwen/text-embedding-v4@64", "--yes")
    hostile.must("work", "docs")
    hostile.must("cutover", "docs", "--yes", "--readers-ready")
    assert hostile.wrong(V4) == []
    quoted = f"{psql.Identifier(names.schema).as_string()}.{psql.Identifier(names.table).as_string()}"
    live = hostile.query("SELECT migrator.live_generation($1, $2)", quoted, names.vector)
    assert live == [("qwen/text-embedding-v4@64",)]
    # A writer that was not deployed, and one that was, by its role.
    hostile.write("key 1 %s", "words of the old model", V3)
    hostile.query(
        "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, UPDATE ON {table} TO {role}; SET ROLE {role};"
        " UPDATE {table} SET {text} = 'declared', {vector} = {declared} WHERE {key} = 'key 2 %s'",
        schema=psql.Identifier(names.schema),
        role=psql.Identifier(role),
        declared=psql.Literal(literal(embed(V4, "declared $capture$ 100 %s"))),
    )
    assert hostile.wrong(V4) == ["key 1 %s"], "until catch-up gives it one"
    hostile.must("rollback", "docs", "--yes")
    assert hostile.wrong(V3) == []
    hostile.must("resume", "docs")
    hostile.must("work", "docs")
    hostile.must("status", "docs")
    hostile.must("rows", "docs")
    hostile.must("report", "docs", "-o", "report.html")
    hostile.must("cutover", "docs", "--yes", "--readers-ready")
    hostile.must("cleanup", "docs", "--yes", "--close-window", "--strays-gone")
    assert hostile.wrong(V4) == []
    assert hostile.query("SELECT count(*)::int FROM {table}") == [(30,)]


def test_grants_on_hostile_names_are_the_grants_and_nothing_else(
    hostile: Table, role: str, owners: dict[str, psql.Identifier], postgres: Postgres
) -> None:
    named = ("--role", f"plan={role}", "--role", f"migrate={ROLE}m", "--role", f"watch={ROLE}w")
    hostile.query("ALTER TABLE {table} OWNER TO {o}", **owners)
    assert cli.run(["grants", "docs.toml", *named]) == 2, "the view is still a superuser's"
    view = psql.Identifier(hostile.names.schema, hostile.names.table[:62] + "v")
    hostile.query("ALTER VIEW {view} OWNER TO {o}", view=view, **owners)
    said = hostile.must("grants", "docs.toml", *named)
    done = subprocess.run(
        [postgres.tool("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", hostile.deployment.url],
        input=said, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"{said}\n{done.stderr}"
    readable = "SELECT has_table_privilege($1, {name}::regclass, 'SELECT')"
    name = psql.Literal(hostile.table.as_string())
    assert hostile.query(readable, role, name=name) == [(True,)]
    assert hostile.query(readable, f"{ROLE}w", name=name) == [(False,)]
    assert hostile.query("SELECT count(*)::int FROM {table}") == [(30,)]


# Schemas that pose as the built-in one

#: Who was run, as whom. Functions and an operator that our functions call, and a type that they declare.
_POSING = """
CREATE SCHEMA posing; CREATE TABLE posing.seen (what text, as_whom text);
GRANT ALL ON SCHEMA posing TO PUBLIC; GRANT ALL ON posing.seen TO PUBLIC;
CREATE FUNCTION posing.note(what text) RETURNS void LANGUAGE sql AS
  $$ INSERT INTO posing.seen VALUES (what, current_user) $$;
CREATE FUNCTION posing.current_setting(text, boolean) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('current_setting'); RETURN ''; END $$;
CREATE FUNCTION posing.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('set_config'); RETURN ''; END $$;
CREATE FUNCTION posing.parse_ident(text) RETURNS text[] LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('parse_ident'); RETURN '{public,docs}'; END $$;
CREATE FUNCTION posing.md5(text) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('md5'); RETURN ''; END $$;
CREATE FUNCTION posing.array_position(anycompatiblearray, anycompatible) RETURNS integer LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('array_position'); RETURN 1; END $$;
CREATE FUNCTION posing.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('='); RETURN true; END $$;
CREATE OPERATOR posing.= (LEFTARG = text, RIGHTARG = text, FUNCTION = posing.equal);
CREATE FUNCTION posing.joined(text, text) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM posing.note('||'); RETURN 'x'; END $$;
CREATE OPERATOR posing.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = posing.joined);
CREATE TABLE posing.dirty (n int); CREATE TABLE posing.pg_attribute (n int); CREATE TABLE posing.pg_class (n int);
"""
#: What a session may make for itself: temporary things come before pg_catalog unless they are told to come last.
_TEMPORARY = """
CREATE FUNCTION pg_temp.looks(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO posing.seen VALUES ('a temporary type', current_user); RETURN true; END $$;
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.looks(VALUE));
CREATE TEMPORARY TABLE pg_attribute (n int); CREATE TEMPORARY TABLE pg_class (n int);
"""
READS = [
    "SELECT migrator.live_generation('public.docs', 'embedding')",
    "SELECT migrator.query_vector('public.docs', 'embedding', '[1,2]'::vector, '[3,4]'::vector)",
    "SELECT migrator.query_vector('public.docs', 'embedding', ARRAY['text-embedding-v3@64'], ARRAY['[1,2]'::vector])",
    "SELECT migrator.generations('public.docs', 'embedding')",
    "SELECT migrator.reader_ready('public.docs', 'embedding', ARRAY['text-embedding-v3@64'])",
]
WRITES = [
    "UPDATE public.docs SET body = 'other words' WHERE id = 1",
    "INSERT INTO public.docs (title, body) VALUES ('new', 'row')",
    "UPDATE public.docs SET id = 1000 WHERE id = 2",
    "DELETE FROM public.docs WHERE id = 3",
    # A writer of the other generation, whose vector is diverted.
    "SET migrator.generation = 'qwen/text-embedding-v4@64'",
    "UPDATE public.docs SET title = 'declared' WHERE id = 5",
]


@pytest.fixture
def posing(deployment: Deployment, app_url: str, monkeypatch: pytest.MonkeyPatch) -> psycopg.Connection:
    """A session of the application's role, in which nothing is what it seems; the table is being moved."""
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)
    deployment.make_table(10)
    for words in (["plan", str(deployment.spec_file)], ["start", str(deployment.spec_file), "--yes"]):
        assert cli.run(words) == 0
    with deployment.connect() as connection:
        connection.execute(_POSING)
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_reader")
    return psycopg.connect(app_url, autocommit=True, options="-c search_path=posing,pg_catalog,public")


@pytest.mark.parametrize("temporary", ["", _TEMPORARY], ids=["schema", "temporary"])
def test_nothing_that_poses_as_built_in_is_run_by_ours(
    deployment: Deployment, posing: psycopg.Connection, temporary: str
) -> None:
    with posing as app:
        if temporary:
            app.execute("SET search_path = public")
            app.execute(temporary.encode())
        for statement in [*READS, *WRITES]:
            app.execute(statement.encode())
        (found,) = app.execute(READS[1].encode()).fetchone() or ()
        assert found == "[1,2]", "before the swap the old model's vector fits"
    assert deployment.query("SELECT DISTINCT what, as_whom FROM posing.seen") == []
    keys = {key for (key,) in deployment.query("SELECT key[1] FROM migrator.dirty WHERE side = 'to'")}
    assert {"1", "5", "1000"} <= keys


def test_every_function_of_ours_that_runs_as_its_owner_is_pinned(
    deployment: Deployment, posing: psycopg.Connection
) -> None:
    posing.close()
    loose = (
        "SELECT proname FROM pg_proc WHERE pronamespace = 'migrator'::regnamespace AND prosecdef"
        " AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"
    )
    assert deployment.query(loose) == []
    # One that an earlier version made, and that stands until a swap: `init` after the upgrade is enough.
    with deployment.connect() as connection:
        connection.execute("ALTER FUNCTION migrator.on_update_1() SET search_path = pg_catalog")
    assert deployment.query(loose) == [("on_update_1",)]
    assert cli.run(["init"]) == 0
    assert deployment.query(loose) == []
