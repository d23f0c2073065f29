"""What a deployment costs the database while nothing is under way: statements a second.

A real worker and a real beat over an embedded PostgreSQL and an embedded Valkey, with nobody's migration there and then
with a paused one. Statements are what PostgreSQL itself counts, of ours alone: BEGIN, COMMIT and settings of a session,
which go with others in one round trip or carry no query, are told apart.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks import Figure
from migrator.demo import processes
from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator

_BENCH = "rest"
#: Statements a second that a deployment at rest may make.
_MOST = 1.0
#: Seconds that are watched, after as many as everything takes to have come up.
_WATCHED_SECONDS, _UP_SECONDS = 60.0, 20.0
_SETTINGS = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_utility": "on"}
_ROOT = Path(__file__).resolve().parents[1]
_TABLE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION pg_stat_statements;
CREATE TABLE docs (id bigint PRIMARY KEY, body text, embedding vector(64));
INSERT INTO docs SELECT i, 'text ' || i, array_fill(0.1, ARRAY[64])::vector FROM generate_series(1, 100) i;
ANALYZE docs
"""
_SPEC = """name = "docs"
[target]
table = "public.docs"
column = "embedding"
text = "{{body}}"
[from]
model = "text-embedding-v3"
dimensions = 64
[to]
model = "text-embedding-v4"
dimensions = 64
base_url = "{url}"
api_key_env = "BENCH_PROVIDER_KEY"
price_usd_per_mtok = 1.0
[limits]
max_cost_usd = 1.0
"""
_COUNTED = r"""
SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
 WHERE query !~* '^\s*(BEGIN|COMMIT|ROLLBACK|SET|SELECT set_config)' AND query !~ 'pg_stat_statements'
"""


def run() -> list[Figure]:
    """Run it on servers of its own."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    home.chmod(0o711)
    server, valkey = Postgres(home / "postgres", settings=_SETTINGS), Valkey(home / "valkey")
    simulator = Simulator(home / "simulator")
    try:
        server.start()
        valkey.start()
        simulator.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(_TABLE.encode())
        env = {
            **os.environ,
            "MIGRATOR_DATABASE_URL": server.url,
            "MIGRATOR_BROKER_URL": valkey.url,
            "BENCH_PROVIDER_KEY": "none",
        }
        spec = home / "docs.toml"
        spec.write_text(_SPEC.format(url=simulator.base_url), encoding="utf-8")
        _migrator(env, home, "init")
        with _deployment(env, home):
            idle = _statements_a_second(server.url)
            _migrator(
                env, home, "start", str(spec), "--yes", "--skip-provenance", "the vectors of a benchmark are made up"
            )
            _migrator(env, home, "pause", "docs")
            paused = _statements_a_second(server.url)
        return [_figure("nothing to move", idle), _figure("one paused migration", paused)]
    finally:
        simulator.stop()
        valkey.remove()
        server.remove()
        shutil.rmtree(home, ignore_errors=True)


def _figure(name: str, figure: float) -> Figure:
    return Figure(_BENCH, name, figure, "/s", f"< {_MOST:g}", figure < _MOST, None)


def _migrator(env: dict[str, str], home: Path, *words: str) -> None:
    process = processes.spawn([sys.executable, "-m", "migrator", *words], home / "command.log", env=env, cwd=_ROOT)
    if process.wait(120):
        raise RuntimeError((home / "command.log").read_text(encoding="utf-8")[-3000:])


@contextmanager
def _deployment(env: dict[str, str], home: Path) -> Iterator[None]:
    """Start one worker and beat, and stop them again."""
    celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
    started = [
        processes.spawn([*celery, "worker", "--loglevel", "WARNING"], home / "worker.log", env=env, cwd=_ROOT),
        processes.spawn([*celery, "beat", "-s", str(home / "beat.db")], home / "beat.log", env=env, cwd=_ROOT),
    ]
    try:
        yield
    finally:
        for process in started:
            processes.stop(process)


def _statements_a_second(url: str) -> float:
    time.sleep(_UP_SECONDS)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
        time.sleep(_WATCHED_SECONDS)
        row = connection.execute(_COUNTED.encode()).fetchone()
        assert row is not None  # noqa: S101 - a sum is always one row
        return float(row[0]) / _WATCHED_SECONDS
