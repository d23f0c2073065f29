"""Every named statement: PostgreSQL takes it as it is composed, and somebody uses it."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from migrator import lifecycle, statements
from migrator.cutover import recapture
from migrator.cutover.rehearsal import Rehearsal
from migrator.demo.servers import Postgres
from migrator.generation import Generation, Side
from migrator.lifecycle import MigrationStatus
from migrator.pilot import sample
from migrator.report import drawing
from migrator.state import migrations
from migrator.state.connection import make_engine, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, dependents, facts, message, privileges, readers, restating
from migrator.target.capture import Capture
from migrator.target.lanes import Lanes
from migrator.validation import every_vector, gates
from migrator.validation.searching import Search
from tests.integration import fence, stored

ROOT = Path(__file__).resolve().parents[2] / "migrator"
RECAPTURE = "cutover/recapture.sql"
#: The second migration of the world, whose capture is off.
OFF_ID = 2
_OFF = """
UPDATE migrator.migrations
   SET status = 'paused', paused_from = 'backfilling', target_table = 'off', capture_off_at = now(), capture_off_xid = 9
 WHERE name = 'off'
"""
Parts = Mapping[str, sql.Composable]
EVERY = [
    (file, name)
    for file in sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.sql"))
    for name in statements.load(file)
]
each_statement = pytest.mark.parametrize(("file", "name"), EVERY, ids=[f"{file}:{name}" for file, name in EVERY])
#: What PREPARE takes; all else is run, and rolled back.
PLANNED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
PARAMETER = re.compile(r"%\((\w+)\)[sbt]")
LOCKING = ("LOCK", "ALTER", "ANALYZE", "DROP INDEX", "DROP TRIGGER", "CREATE INDEX", "CREATE TRIGGER")

_MORE = """
CREATE EXTENSION pg_prewarm;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
INSERT INTO docs (id, title, body, embedding) VALUES (1, 'title', 'body', '[3,1]');
CREATE INDEX docs_embedding_idx ON docs USING hnsw (embedding public.vector_cosine_ops);
ALTER TABLE docs ADD CONSTRAINT spare CHECK (n >= 0);
CREATE INDEX spare_1_idx ON docs (n);
CREATE INDEX spare_2_idx ON docs (n);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9);
CREATE INDEX parted_idx ON ONLY parted (id);
CREATE INDEX parted_1_idx ON parted_1 (id);
CREATE VIEW docs_view AS SELECT id, embedding FROM docs;
CREATE FUNCTION migrator.on_spare() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
"""


@dataclass(frozen=True)
class World:
    """A database with an expanded table, and the parts that its statements are composed from."""

    url: str
    common: Parts
    own: Mapping[str, Parts]
    #: Those that a function of the package makes whole.
    built: Mapping[str, sql.Composed]

    def composed(self, file: str, name: str) -> sql.Composed:
        where = f"{file}:{name}"
        return self.built.get(where) or compose(file, name, {**self.common, **self.own.get(where, {})})


def built(made: Capture, migration: Migration, oid: int) -> dict[str, sql.Composed]:
    on_insert_update = zip(made.triggers, made.functions(Side.FROM), strict=True)
    functions = {f"target/capture.sql:on_{name}": function for name, function in on_insert_update}
    return {
        **functions,
        **rehearsals(made),
        # A piece of it where the dimensions differ.
        "target/capture.sql:told_by_dims": replace(made, to_generation=Generation("v4", 3)).functions(Side.FROM)[0],
        # A piece of it under `only_embedded`.
        **dict.fromkeys(
            ("target/capture.sql:let_go", "target/capture.sql:take_up"),
            replace(made, target=replace(made.target, only_embedded=True, where="id > 0")).functions(Side.FROM)[0],
        ),
        # A piece of on_update, on partitioned tables.
        "target/capture.sql:mark_move": functions["target/capture.sql:on_update"],
        "target/capture.sql:keep_not_null": functions["target/capture.sql:on_update"],
        "target/dependents.sql:fingerprint": dependents.fingerprint_query(oid, "embedding"),
        "target/restating.sql:remember_not_null": restating.remembered(oid, made.target, migration.id),
        "target/restating.sql:said": restating.said(oid, made.target, {}),
        "target/restating.sql:search": restating.searching(restating.path("public")),
        "target/restating.sql:alike": restating.alike(oid, made.target),
        "target/message.sql:moment": message.moment("locked"),
        **dict.fromkeys(
            (f"target/privileges.sql:{name}" for name in ("make_role", "made_role")), privileges.make_role("of_nobody")
        ),
        **dict.fromkeys(
            (f"target/privileges.sql:{name}" for name in ("take_over_state", "taken_over_state")),
            privileges.take_over_state("postgres"),
        ),
        "target/readers.sql:side_of_target": readers.constant(
            "public", "docs", "embedding", Side.FROM, migration.from_generation
        ),
        "state/moving.sql:move": migrations.move_in_message(migration, MigrationStatus.BACKFILLING, actor="test"),
    }


def rehearsals(made: Capture) -> dict[str, sql.Composed]:
    """The rehearsal's blocks, each of them whole: most of its statements are pieces of one."""
    names = ("id", "title", "body", "n", "embedding")
    plain = facts.Column(
        "id", 1, "text", "text", "text", -1, not_null=False, generated=False, identity=False, has_default=False,
        has_grants=False, granted_by_others=False, storage="x", type_storage="x", statistics_target=-1, compression="",
        has_options=False, has_comment=False,
    )  # fmt: skip
    writes = Rehearsal(made.target, [replace(plain, name=name) for name in names])
    blocks = {
        operation: writes._block(operation, ways[0], "pg_catalog, public") for operation, ways in writes._operations()
    }
    of = {"rehearse": "UPDATE", "assign": "INSERT", "insert": "INSERT", "update": "UPDATE", "delete": "DELETE"}
    return {f"cutover/rehearsal.sql:{name}": blocks[operation] for name, operation in of.items()}


def own(made: Capture, migration: Migration, found: dict[str, str], oid: int, view_oid: int) -> dict[str, Parts]:
    renames = [
        "ALTER TABLE public.docs RENAME COLUMN embedding TO other",
        "ALTER TABLE public.docs RENAME COLUMN embedding__migrator TO embedding",
    ]
    triggers: dict[str, Parts] = {
        f"target/capture.sql:trigger_{name}": {
            "trigger": sql.Identifier("other__migrator"),
            "function": made.function(name),
            "when": made.when(fence.COLUMNS),
        }
        for name in made.triggers
    }
    other = sql.Identifier("other")
    search = Search(migration, ("public", "<=>"), None, 0)
    return {
        **triggers,
        "target/swap.sql:check": {"expected": sql.Literal(dependents.digest(found))},
        "target/swap.sql:exchange": {
            "said": restating.said(oid, made.target, {"views": [view_oid]}),
            "renames": sql.Literal(renames),
            "path": restating.path("public"),
        },
        "target/restating.sql:lets_null_pass": {
            "expression": sql.SQL("public.vector_norm(embedding) > 0"),
            "type": facts.vector_type("public", "vector", 2),
            "column": sql.Identifier("embedding"),
        },
        "cutover/not_null.sql:comment": {"name": sql.Identifier("spare"), "comment": sql.Literal("it's one")},
        "cutover/not_null.sql:validate": {"name": sql.Identifier("spare")},
        **{f"cutover/recapture.sql:{name}": recapture._parts(migration) for name in statements.load(RECAPTURE)},
        "cutover/capture_off.sql:turn": {
            "migration_id": sql.Literal(OFF_ID),
            "turn": sql.Literal(0),
            "epoch": sql.Literal(0),
            "status": sql.Literal("paused"),
        },
        "cutover/not_null.sql:set": {"column": sql.Identifier("embedding")},
        "cutover/not_null.sql:drop_check": {"name": sql.Identifier("spare")},
        "target/restating.sql:add_check": {"name": other, "definition": sql.SQL("CHECK (n >= 0) NOT VALID")},
        "target/restating.sql:comment_check": {"name": sql.Identifier("spare"), "comment": sql.Literal("it's one")},
        "target/restating.sql:validate_check": {"name": sql.Identifier("spare")},
        "target/restating.sql:rename_check": {"old": sql.Identifier("spare"), "new": other},
        "target/swap.sql:left_behind": {"oid": sql.Literal(oid), "shadow": sql.Literal(made.target.shadow)},
        "target/swap.sql:rename_column": {"old": sql.Identifier("embedding"), "new": other},
        "target/swap.sql:rename_index": {"old": sql.Identifier("public", "docs_embedding_idx"), "new": other},
        "target/readers.sql:functions_lock": {"key": sql.Literal(4711)},
        "target/message.sql:locks": {"statements": sql.Literal([message.lock_table(made.target.table_id)])},
        "target/capture.sql:enable_always_below": {"trigger_name": sql.Literal(capture.TRIGGERS["update"])},
        "target/index.sql:build_parent": {"name": sql.Identifier("built_parent__migrator")},
        "target/index.sql:attach": {
            "parent": sql.Identifier("public", "parted_idx"),
            "index": sql.Identifier("public", "parted_1_idx"),
        },
        "target/index.sql:prewarm": {
            "prewarm": sql.Identifier("public", "pg_prewarm"),
            "index": sql.Literal("public.docs_embedding_idx"),
            "mode": sql.Literal("read"),
        },
        "target/index.sql:drop": {"index": sql.Identifier("public", "spare_1_idx")},
        "target/readers.sql:query_vector": dict.fromkeys(("old", "new", "type"), sql.Identifier("public", "halfvec")),
        **{
            f"target/readers.sql:{name}": {"swappable": sql.Literal(sorted(lifecycle.SWAPPABLE))}
            for name in ("generations", "reader_ready")
        },
        "target/privileges.sql:read_later_state": {"owner": sql.Identifier("postgres")},
        "cutover/cleaning.sql:drop_index": {"index": sql.Identifier("public", "spare_2_idx")},
        "cutover/expand.sql:add_column": {
            "shadow": sql.Identifier("another__migrator"),
            "type": facts.vector_type("public", "vector", 2),
        },
        "provenance/sample.sql:sample": {**gates._parts(migration), "pieces": sql.SQL("ARRAY[t.title]")},
        **{
            f"validation/every_vector.sql:{name}": {
                **every_vector.parts(migration),
                "heap": made.target.table_id,
                "along": every_vector.along(migration, sized=False),
            }
            for name in statements.load("validation/every_vector.sql")
        },
        **{f"pilot/sample.sql:{name}": sample.parts(made.target) for name in ("pool", "rows")},
        "validation/gates.sql:sample": gates._parts(migration),
        "report/drawing.sql:pairs": drawing.parts(migration),
        **{f"validation/searching.sql:{name}": search.parts(Side.TO) for name in ("search", "pairs", "still")},
    }


def common(made: Capture, oid: int) -> dict[str, sql.Composable]:
    target = made.target
    return {
        **made._parts(Side.FROM),
        **Lanes(target, target.shadow, target.column, "public", "vector").parts(),
        "trigger": sql.Identifier(capture.TRIGGERS["update"]),
        "function": sql.Identifier("migrator", "on_spare"),
        "table_name": sql.Literal("public.docs"),
        "generation": sql.Literal("v4@2"),
        "target_schema": sql.Literal(target.schema),
        "target_table": sql.Literal(target.table),
        "target_column": sql.Literal(target.column),
        "payload": sql.Literal("public.docs.embedding v4@2"),
        "side": sql.Literal("to"),
        "writers": statements.quoted("{}"),
        "max_dirty_rows": sql.Literal(100),
        "max_dirty_seconds": sql.Literal(5.0),
        "fingerprint": dependents.fingerprint_query(oid, "embedding"),
        "deadline": sql.Literal("400 ms"),
        "lock_timeout": message.milliseconds(0.4),
        "statement_timeout": message.milliseconds(3),
        "transaction_timeout": message.milliseconds(5),
        "application": sql.Literal("test"),
        "memory": sql.Literal("65536kB"),
        "name": sql.Identifier("built__migrator"),
        "definition": sql.SQL("hnsw (embedding public.vector_cosine_ops) WITH (m = 8) WHERE (n > 0)"),
        "tablespace": sql.Literal(""),
        "workers": sql.Literal("2"),
        "octets": target.octets_of("t"),
        "age": sql.SQL("extract(epoch FROM now() - now())::float8"),
        "heap": target.table_id,
        "statements": sql.Identifier("public", "pg_stat_statements"),
        "database": sql.Identifier("statements"),
        "schema": sql.Identifier("public"),
        "role": sql.Identifier("postgres"),
        "owner": sql.Identifier("pg_monitor"),
    }


async def expanded(url: str, made: Capture) -> tuple[Migration, int, dict[str, str]]:
    engine = make_engine(url, "statements")
    async with transaction(engine) as connection:
        migration = await stored.plan(connection, plan={"vector_schema": "public", "vector_type": "vector"})
        assert (await stored.plan(connection, "off")).id == OFF_ID
        await connection.exec_driver_sql(_OFF)
    await fence.expand(engine, made)
    async with transaction(engine) as connection:
        relation = await facts.relation(connection, "public", "docs")
        assert relation is not None
        found = await dependents.fingerprint(connection, relation.oid, "embedding")
    await engine.dispose()
    return migration, relation.oid, found


@pytest.fixture(scope="module")
def world(postgres: Postgres, template: str) -> Iterator[World]:
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE statements TEMPLATE {template}".encode())
    url = postgres.database_url("statements")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(fence.PLAIN.encode())
        connection.execute(_MORE)
    made = Capture(fence.target(), 1, fence.V3, fence.V4, "public", partitioned=True)
    migration, oid, found = asyncio.run(expanded(url, made))
    assert migration.id == made.migration_id
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT 'docs_view'::regclass::oid::bigint").fetchone()
    assert row is not None
    yield World(url, common(made, oid), own(made, migration, found, oid, row[0]), built(made, migration, oid))
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(b"DROP DATABASE statements WITH (FORCE)")


def as_prepared(text: str) -> str:
    """A statement as psycopg sends it: %(names)s become $1, $2 ..., %% is a percent sign."""
    names = list(dict.fromkeys(PARAMETER.findall(text)))
    if not names:
        return text
    return PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", text).replace("%%", "%")


@each_statement
def test_postgresql_takes_it_as_it_is_composed(world: World, file: str, name: str) -> None:
    with psycopg.connect(world.url, autocommit=True, options="-c search_path=pg_catalog") as connection:
        text = world.composed(file, name).as_string(connection)
        if text.startswith(PLANNED):
            connection.execute(f"PREPARE it AS {as_prepared(text)}".encode())
        elif "CONCURRENTLY" in text or text.startswith("BEGIN"):
            connection.execute(text.encode())
        else:
            connection.execute("BEGIN")
            connection.execute(text.encode())
        connection.execute("ROLLBACK")


@each_statement
def test_a_percent_sign_is_doubled_where_there_are_parameters_and_only_there(file: str, name: str) -> None:
    """psycopg reads %% as one percent sign where a statement has parameters, and leaves it alone where it has none."""
    text = statements.load(file)[name]
    if PARAMETER.search(text):
        assert "%" not in PARAMETER.sub("", text).replace("%%", "")
    else:
        assert "%%" not in text


def headers() -> dict[tuple[str, str], str]:
    """Every statement's header, without dashes."""
    found = {}
    for file, _ in EVERY:
        pieces = statements._NAME.split((ROOT / file).read_text(encoding="utf-8"))
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            lines = body.strip("\n").splitlines()
            end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
            found[file, name] = "\n".join(line.removeprefix("--").strip() for line in lines[:end])
    return found


@each_statement
def test_what_takes_a_lock_says_so_in_its_header(file: str, name: str) -> None:
    if statements.load(file)[name].startswith(LOCKING):
        assert re.search(r"^locks: \S", headers()[file, name], re.MULTILINE)


def used() -> set[tuple[str, str]]:
    """(file, name) of every statement that a `compose`, or a `_statement` on the file's own, names in the package.

    F-strings name triggers and functions.
    """
    found = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        files = [
            node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "_FILE"
            and isinstance(node.value, ast.Constant)
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._statement":
                found.add((files[0], ast.literal_eval(node.args[0])))
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "compose"):
                continue
            if ast.unparse(node.args[1]) == "name" and path.name == "lanes.py":
                continue  # what `_statement` fills
            file, name = node.args[0], node.args[1]
            named = file.value if isinstance(file, ast.Constant) else files[0]
            if isinstance(name, ast.Constant):
                found.add((named, name.value))
            else:
                prefix = ast.unparse(name).removeprefix("f'").removesuffix("{name}'")
                found |= {(named, prefix + each) for each in capture.TRIGGERS | capture.PARTITION_TRIGGERS}
    return found


def test_every_statement_is_used_and_every_one_that_is_used_is_there() -> None:
    assert used() == set(EVERY)
