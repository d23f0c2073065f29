"""Hostile surroundings: names that try to be SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql as psql

from migrator.cli import app as cli
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
        made = psql.SQL(statement).format(table=self.table, **self.ids, **more)  # type: ignore[arg-type]
        said = made.as_string()
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
