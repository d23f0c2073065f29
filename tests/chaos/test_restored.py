"""A backup is restored in mid-migration: what had been paid since is paid again, and nothing else is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg

from migrator.demo.servers import Postgres
from tests.deployment import V4, Deployment

ROWS = 400


def under_way(deployment: Deployment, rows: int = ROWS) -> int:
    """Work until some rows have their vector, die, and leave edits behind; returns how many were written."""
    deployment.make_table(rows)
    deployment.must("start", deployment.spec_file, "--yes")
    process = deployment.work()
    deployment.wait(lambda: deployment.value("SELECT count(embedding__migrator) FROM docs") > 10, process, "rows")
    deployment.kill(process)
    deployment.query("UPDATE docs SET body = body || ' anew' WHERE id IN (1, 2) RETURNING id")
    return int(deployment.value("SELECT count(embedding__migrator) FROM docs"))


def ready(deployment: Deployment) -> None:
    """Bring a small table to where it may be cut over."""
    deployment.make_table(40)
    deployment.must("start", deployment.spec_file, "--yes")
    deployment.must("work", "docs", "--until", "ready")


def dump(server: Postgres, deployment: Deployment, file: Path, *words: str) -> None:
    command = [server.tool("pg_dump"), "--format=custom", "--file", file, *words, deployment.url]
    subprocess.run(command, check=True, capture_output=True)


def restore(server: Postgres, deployment: Deployment, file: Path) -> None:
    """As somebody does it who lost the database: it is made anew, under its old name."""
    name = deployment.url.rpartition("/")[2]
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    subprocess.run([server.tool("pg_restore"), "--dbname", deployment.url, file], check=True, capture_output=True)


def test_a_dump_of_the_whole_database_is_gone_on_with(
    postgres: Postgres, deployment: Deployment, tmp_path: Path
) -> None:
    written = under_way(deployment)
    dump(postgres, deployment, tmp_path / "backup")
    deployment.must("work", "docs", "--until", "ready")
    restore(postgres, deployment, tmp_path / "backup")
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == written, "what was paid since is gone"
    assert "carries our suffix" not in deployment.run("doctor", deployment.spec_file).stdout
    deployment.must("pause", "docs")
    deployment.must("limits", "docs", "--max-cost", "0.9")
    deployment.must("resume", "docs")
    deployment.must("work", "docs", "--until", "ready")
    assert deployment.mismatches("embedding__migrator", V4) == []
    deployment.must("cutover", "docs", "--readers-ready", "--yes")
    deployment.query("UPDATE docs SET body = body || ' and after' WHERE id < 4 RETURNING id")
    deployment.must("rollback", "docs", "--yes")
    deployment.must("cleanup", "docs", "--yes")


def test_a_dump_that_was_ready_is_looked_at_before_the_cutover(
    postgres: Postgres, deployment: Deployment, tmp_path: Path
) -> None:
    """A table by itself may be restored, too: then the state tells of other rows, so all are looked at."""
    ready(deployment)
    dump(postgres, deployment, tmp_path / "ready")
    restore(postgres, deployment, tmp_path / "ready")
    said = deployment.must("cutover", "docs", "--readers-ready", "--yes", code=2)
    assert "public.docs.embedding is another table than was planned, as it is in a restored dump" in said
    assert "`migrator validate docs`" in said
    deployment.must("validate", "docs")
    deployment.must("cutover", "docs", "--readers-ready", "--yes")
    dump(postgres, deployment, tmp_path / "completed")
    restore(postgres, deployment, tmp_path / "completed")
    said = deployment.must("rollback", "docs", "--yes", code=2)
    assert "nobody knows whether its old column is whole, and `cleanup` alone is left" in said
    deployment.must("cleanup", "docs", "--close-window", "--yes")
    assert deployment.mismatches("embedding", V4) == []


def test_a_table_that_came_back_without_its_triggers_is_not_taken_for_the_same(
    postgres: Postgres, deployment: Deployment, tmp_path: Path
) -> None:
    """What was written to it since was seen by nobody."""
    ready(deployment)
    dump(postgres, deployment, tmp_path / "backup")
    restore(postgres, deployment, tmp_path / "backup")
    with deployment.connect() as connection:
        connection.execute("DROP TRIGGER zzzz_divert__migrator ON docs")
    deployment.must("validate", "docs")
    assert "is another table than was planned" in deployment.must("cutover", "docs", "--readers-ready", "--yes", code=2)
