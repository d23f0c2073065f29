"""`migrator grants`: what it prints is enough for each role, and none of its lines is too many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from migrator.demo.servers import Postgres
from migrator.demo.simulator.control import Simulator
from migrator.generation import Side
from migrator.orchestrator import metrics
from migrator.state.connection import make_engine
from migrator.target import privileges
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration.rights import APPLICATION, MIGRATE, NAMED, OWNER, PLAN, VIEW_OWNER, WATCH, Rights

#: The lines of each role by what they hold, each of them once: they are left out one at a time.
MIGRATES = [
    f"CREATE ROLE {MIGRATE} LOGIN", "GRANT CONNECT", f"CREATE SCHEMA IF NOT EXISTS migrator AUTHORIZATION {MIGRATE}",
    "GRANT USAGE, CREATE ON SCHEMA public", "GRANT USAGE, CREATE ON SCHEMA views", "GRANT USAGE ON SCHEMA pgv",
    f"GRANT {OWNER} TO", f"GRANT {VIEW_OWNER} TO", "GRANT pg_monitor TO", "GRANT SET ON PARAMETER session_replication",
]  # fmt: skip
PLANS = [
    f"CREATE ROLE {PLAN} LOGIN", "GRANT CONNECT", "GRANT USAGE ON SCHEMA public",
    "GRANT SELECT ON public.docs", f"ALTER ROLE {PLAN} BYPASSRLS", "GRANT SELECT ON ALL TABLES IN SCHEMA migrator",
    "ALTER DEFAULT PRIVILEGES", "GRANT pg_monitor TO",
]  # fmt: skip
WATCHES = [
    f"CREATE ROLE {WATCH} LOGIN", "GRANT CONNECT", "GRANT SELECT ON ALL TABLES IN SCHEMA migrator",
    "ALTER DEFAULT PRIVILEGES",
]  # fmt: skip
#: What a plan says of every role that does not own the table.
NOT_THE_OWNER = ("privilege_owner", "privilege_missing", "trigger_fires")


@pytest.fixture
def rights(
    bare_database: str,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Rights]:
    made = Rights(Deployment(bare_database, tmp_path, simulator), monkeypatch, capfd)
    yield made
    made.dropped()


def without(lines: list[str], left_out: str) -> list[str]:
    kept = [line for line in lines if left_out not in line]
    assert len(kept) == len(lines) - 1, f"{left_out} stands in one line of {lines}"
    return kept


def started(rights: Rights) -> None:
    rights.give(rights.lines("migrate"))
    for words in (("init",), ("plan", "docs.toml"), ("start", "docs.toml", "--yes")):
        rights.must(MIGRATE, *words)


# The role that migrates


@pytest.mark.timeout(180)
def test_the_whole_life_as_the_role_that_migrates(rights: Rights, postgres: Postgres) -> None:
    lines = rights.lines("migrate")
    # As an administrator does it: `migrator grants docs.toml | psql`.
    rights.piped(postgres.tool("psql"), *NAMED)
    assert rights.deployment.query("SELECT 1 FROM pg_roles WHERE rolname IN (%s, %s)", PLAN, WATCH) == [(1,), (1,)]
    assert rights.deployment.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", MIGRATE) is False
    assert rights.refused_in_life() is None
    assert rights.deployment.mismatches("embedding", V4) == []
    # Once more, and once for what stands by then: nothing is refused, and nothing has to be handed over.
    again = rights.lines("migrate")
    assert again == [line for line in lines if "CREATE SCHEMA" not in line]
    rights.give([*lines, *again])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("left_out", MIGRATES)
def test_each_line_of_the_role_that_migrates_is_needed(rights: Rights, left_out: str) -> None:
    lines = rights.lines("migrate")
    assert len(lines) == len(MIGRATES)
    rights.give(without(lines, left_out))
    assert rights.refused_in_life(until="cutover") is not None


def test_a_schema_that_a_superuser_made_is_handed_over(rights: Rights) -> None:
    rights.must("postgres", "init")
    lines = rights.lines("migrate")
    rights.give(without(lines, "ALTER TABLE"))
    code, _, err = rights.run(MIGRATE, "init")
    assert code == 2, err
    rights.give(lines)
    assert rights.refused_in_life(until="start") is None
    assert rights.lines("migrate") == without(lines, "ALTER TABLE")


def test_a_schema_that_a_deployment_works_with_is_taken_from_nobody(rights: Rights) -> None:
    rights.give(rights.lines("migrate"))
    rights.must(MIGRATE, "init")
    others = ("--role", f"plan={PLAN}", "--role", f"watch={WATCH}")
    unasked = rights.must("postgres", "grants", "docs.toml", *others)
    assert f"GRANT pg_monitor TO {MIGRATE};" in unasked
    assert "ALTER SCHEMA" not in unasked
    code, out, err = rights.run("postgres", "grants", "docs.toml", "--role", f"migrate={APPLICATION}", *others)
    assert code == 2
    assert f"schema migrator is {MIGRATE}'s, whose workers would lose it" in err
    assert "ALTER SCHEMA" not in out


def test_row_security_that_holds_for_the_owner_takes_a_line_more(rights: Rights) -> None:
    rights.sql("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY")
    lines = rights.lines("migrate")
    rights.give(without(lines, f"ALTER ROLE {MIGRATE} BYPASSRLS"))
    rights.must(MIGRATE, "init")
    assert "row_security" in (rights.lacks(MIGRATE) or "")
    rights.give(lines)
    assert rights.lacks(MIGRATE) is None


def test_triggers_that_may_fire_take_a_line_less(rights: Rights) -> None:
    rights.deployment.spec_data["target"]["fire_triggers"] = True
    assert rights.deployment.spec_file.exists()
    assert not [line for line in rights.lines("migrate") if "session_replication_role" in line]


def test_membership_in_a_superuser_is_never_printed(rights: Rights) -> None:
    rights.sql("ALTER TABLE docs OWNER TO postgres")
    code, out, err = rights.run("postgres", "grants", "docs.toml", *NAMED)
    assert code == 2
    assert "superuser postgres owns public.docs" in err
    assert "-- Incomplete" in out
    assert "GRANT postgres" not in out
    _, out, _ = rights.run("postgres", "grants", "docs.toml", *NAMED, "--json")
    assert "superuser postgres" in json.loads(out)["blocks"][0]["lacks"][0]


@pytest.mark.parametrize(
    "named",
    ["public", "plan=public", "plan=none", "reader=me", "plan=", f"plan={'x' * 64}", "plan=migrator"],
    ids=lambda named: named[:20],
)
def test_a_name_that_would_be_granted_to_somebody_else_is_refused(rights: Rights, named: str) -> None:
    """PUBLIC is everybody, a longer name is cut to another, and a role of two kinds has the rights of both."""
    code, out, _ = rights.run("postgres", "grants", "docs.toml", "--role", named)
    assert (code, out) == (2, "")


def test_every_reserved_word_of_the_server_is_quoted(rights: Rights) -> None:
    words = rights.deployment.query("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    assert len(words) > 90
    assert [word for (word,) in words if privileges.quoted(word) == word] == []


def test_a_table_that_is_not_there_is_refused(rights: Rights) -> None:
    rights.deployment.spec_data["target"]["table"] = "public.nowhere"
    assert rights.deployment.spec_file.exists()
    code, out, err = rights.run("postgres", "grants", "docs.toml")
    assert (code, out) == (2, "")
    assert "There is no table public.nowhere" in err


# The role that only plans


def secured(rights: Rights) -> list[str]:
    rights.sql("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    return rights.lines("plan")


def test_the_role_that_plans_stores_nothing_and_can_not_start(rights: Rights) -> None:
    rights.give(rights.lines("migrate"))
    rights.give(secured(rights))
    # Before `init`, and behind it: our own tables come after the grants.
    assert "schema migrator is missing" in rights.must(PLAN, "plan", "docs.toml")
    rights.must(MIGRATE, "init")
    assert rights.lacks(PLAN, expected=NOT_THE_OWNER) is None
    assert "this role may not write schema migrator" in rights.must(PLAN, "plan", "docs.toml")
    assert rights.run(PLAN, "start", "docs.toml", "--yes")[0] == 2
    assert rights.deployment.value("SELECT count(*) FROM migrator.migrations") == 0


@pytest.mark.parametrize("left_out", PLANS)
def test_each_line_of_the_role_that_plans_is_needed(rights: Rights, left_out: str) -> None:
    lines = secured(rights)
    assert len(lines) == len(PLANS)
    rights.give(rights.lines("migrate"))
    rights.must(MIGRATE, "init")
    rights.give(without(lines, left_out))
    lack = rights.lacks(PLAN, expected=NOT_THE_OWNER)
    assert lack is not None or not later_is_read(rights, PLAN)


# The role that only watches


def watched(rights: Rights) -> str | None:
    """Do everything that watching is; returns what was refused."""
    for words in (("status",), ("status", "docs", "--json"), ("batches", "docs"), ("report", "docs", "-o", "r.html")):
        code, out, err = rights.run(WATCH, *words)
        if code != 0:
            return f"{words}: exit {code}\n{out}\n{err}"

    async def scrape() -> int:
        engine = make_engine(rights.url(WATCH), "exporter")
        found, _ = await metrics.read(engine)
        await engine.dispose()
        return len(found)

    assert asyncio.run(scrape()) == 1
    return None if later_is_read(rights, WATCH) else "a table that an upgrade made"


def later_is_read(rights: Rights, role: str) -> bool:
    """Whether a role may read what an upgrade of the tool makes."""
    with psycopg.connect(rights.url(MIGRATE), autocommit=True) as connection:
        connection.execute("CREATE TABLE migrator.later (n int)")
    return bool(rights.deployment.value("SELECT has_table_privilege(%s, 'migrator.later', 'SELECT')", role))


def test_the_role_that_watches_sees_no_row_and_changes_nothing(rights: Rights) -> None:
    started(rights)
    rights.give(rights.lines("watch"))
    assert watched(rights) is None
    for words in (("pause", "docs"), ("limits", "docs", "--rpm", "1"), ("cancel", "docs", "--yes"), ("work", "docs")):
        code, _, err = rights.run(WATCH, *words)
        assert code == 2, f"{words}\n{err}"
        assert "migrator grants SPEC" in err
    with psycopg.connect(rights.url(WATCH)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT count(*) FROM public.docs")


@pytest.mark.parametrize("left_out", WATCHES)
def test_each_line_of_the_role_that_watches_is_needed(rights: Rights, left_out: str) -> None:
    started(rights)
    lines = rights.lines("watch")
    assert len(lines) == len(WATCHES)
    rights.give(without(lines, left_out))
    assert watched(rights) is not None


# The application's role


def used(rights: Rights) -> None:
    """What an application does, by a role that has rights on its own table and nothing else."""
    old, new = literal(embed(V3, "title 3\nwords")), literal(embed(V4, "title 3\nwords"))
    with psycopg.connect(rights.url(APPLICATION), autocommit=True) as app:
        app.execute("LISTEN migrator_live")
        app.execute("INSERT INTO docs (title, body, embedding) VALUES ('new', 'row', %s)", [new])
        app.execute("UPDATE docs SET body = 'words', embedding = %s WHERE id = 3", [old])
        app.execute("DELETE FROM docs WHERE id = 4")
        live = "SELECT migrator.live_generation('public.docs', 'embedding')"
        assert app.execute(live).fetchone() == (str(rights.deployment.spec.generation(Side.FROM)),)
        vector = "migrator.query_vector('public.docs', 'embedding', %s::vector, %s::vector)"
        assert app.execute(f"SELECT id FROM docs ORDER BY embedding <=> {vector} LIMIT 1", [old, new]).fetchone() == (
            3,
        )
        ready = "SELECT migrator.reader_ready('public.docs', 'embedding', ARRAY['a@1'])"
        assert app.execute(ready).fetchone() is not None
        app.execute("SET migrator.generation = 'qwen/text-embedding-v4@64'")
        app.execute("UPDATE docs SET embedding = %s WHERE id = 5", [new])
        for table in ("dirty", "migrations", "strays", "readers"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(f"SELECT * FROM migrator.{table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("CREATE TABLE migrator.mine (n int)")


def test_the_role_of_the_application_needs_nothing_after_start(rights: Rights) -> None:
    started(rights)
    used(rights)
    assert rights.deployment.value("SELECT count(*) FROM migrator.dirty") > 0


def test_its_declaration_as_a_setting_of_its_role_takes_its_line(rights: Rights) -> None:
    (line,) = rights.lines("application")
    declared = f"ALTER ROLE {APPLICATION} SET migrator.generation = 'qwen/text-embedding-v4@64'"
    with psycopg.connect(rights.url(APPLICATION), autocommit=True) as app:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(declared)
        rights.give([line])
        app.execute(declared)


def test_without_a_name_nothing_is_granted_to_an_application(rights: Rights) -> None:
    out = rights.must("postgres", "grants", "docs.toml")
    assert "-- Nothing to grant" in out
    assert "migrator.generation TO" not in out
