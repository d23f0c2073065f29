"""Real servers for the tests: one embedded PostgreSQL per test process, one database per test."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator
from migrator.spending.worker import Worker
from migrator.state import connection as connections
from migrator.state import schema
from migrator.target import readers
from tests import standby as standbys
from tests.deployment import Deployment

#: Debian's packages that tests marked `system` need, and a program of each.
PACKAGES = {
    "chromium": "chromium",
    "docker-compose": "docker-compose",
    "pgbouncer": "pgbouncer",
    "rabbitmq-server": "rabbitmq-server",
    "systemd": "systemd-analyze",
}
# As in workers: what a process has imported is not looked over again and again.
gc.set_threshold(50_000, 20, 50)
#: Where another PostgreSQL's programs lie, to run tests against it by hand; it needs pgvector, and no other extension.
_PROGRAMS = os.environ.get("TEST_POSTGRES_PROGRAMS")
_OTHER: dict[str, Any] = {"programs": Path(_PROGRAMS)} if _PROGRAMS else {}
_PLAIN = {"shared_preload_libraries": ""} if _PROGRAMS else {}
#: Marks of tests that run only where an option of that name is given.
_ASKED_FOR = ("long", "soak", "system")
_TIERS = {"unit": 10, "integration": 60, "acceptance": 180, "chaos": 360, "revisions": 60, "docs": 120}


def find_program(name: str) -> str | None:
    """Where a program lies; Debian keeps servers in folders that a user's PATH leaves out."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the long forms")
    parser.addoption("--runs", type=int, help="how many kills, or runs of the state machine, in tests/chaos")
    parser.addoption("--soak", type=float, help="run the soak for so many minutes (tests/chaos/test_soak.py)")
    parser.addoption("--system", action="store_true", help="also run tests that need Debian packages")


def pytest_configure(config: pytest.Config) -> None:
    """Say what is missing before any process of the run is started: in one of those it would look like a crash."""
    if config.getoption("system"):
        missing = [package for package, program in PACKAGES.items() if find_program(program) is None]
        if missing:
            raise pytest.UsageError(
                f"--system needs Debian's {', '.join(missing)}: apt-get install {' '.join(missing)}"
            )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each tier has its time limit; long and system forms are asked for by name."""
    kept, dropped = [], []
    for item in items:
        for tier, seconds in _TIERS.items():
            if f"/tests/{tier}/" in item.path.as_posix() and item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(seconds))
        asked = all(item.get_closest_marker(name) is None or config.getoption(name) for name in _ASKED_FOR)
        (kept if asked else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for servers, short enough for sockets and open to `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="mgt-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[Postgres]:
    # fsync off: these tests kill processes, never the machine, and what a process wrote stays in the page cache.
    server = Postgres(scratch / "postgres", settings={"fsync": "off", "wal_level": "logical", **_PLAIN}, **_OTHER)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def valkey(scratch: Path) -> Iterator[Valkey]:
    server = Valkey(scratch / "valkey")
    server.start()
    yield server
    server.remove()


def _admin(server: Postgres, *statements: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def _init(url: str) -> None:
    engine = connections.make_engine(url, "template")
    async with connections.transaction(engine) as connection:
        await schema.upgrade(connection)
        await readers.install(connection)
    await engine.dispose()


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    """The name of a database with pgvector and schema `migrator`, to be cloned."""
    _admin(postgres, "CREATE DATABASE template_migrator")
    url = postgres.database_url("template_migrator")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    asyncio.run(_init(url))
    return "template_migrator"


_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def database(postgres: Postgres, template: str) -> Iterator[str]:
    """The URL of a database of this test's own."""
    name = f"test_{next(_numbers)}"
    _admin(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.database_url(name)
    _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def bare_database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database: no extension, no schema of ours."""
    name = f"bare_{next(_numbers)}"
    _admin(postgres, f"CREATE DATABASE {name}")
    yield postgres.database_url(name)
    _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    made = connections.make_engine(database, "test")
    yield made
    await made.dispose()


@pytest.fixture
def sql(database: str) -> Iterator[psycopg.Connection]:
    """An application's plain autocommit connection."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def simulator_process(scratch: Path) -> Iterator[Simulator]:
    made = Simulator(scratch / "simulator")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def simulator(simulator_process: Simulator) -> Simulator:
    """The provider, with an empty bill and no faults."""
    simulator_process.admin(reset=True)
    return simulator_process


@pytest.fixture
def deployment(database: str, simulator: Simulator, tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(database, tmp_path, simulator)
    yield made
    made.close()


@pytest.fixture
async def worker(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """The engine's own worker, in this process, for a deployment."""
    for name, value in deployment.env.items():
        if name.startswith(("MIGRATOR_", "TEST_")):
            monkeypatch.setenv(name, value)
    made = Worker.make("test")
    made.backoff_seconds = 0.01
    yield made
    await made.close()


@pytest.fixture
def scratch_server(scratch: Path) -> Iterator[Callable[..., Postgres]]:
    """Make servers with settings of their own, each with a database `app`."""
    made: list[Postgres] = []

    def make(**settings: str) -> Postgres:
        server = Postgres(scratch / f"own-{next(_numbers)}", settings={"fsync": "off", **_PLAIN, **settings}, **_OTHER)
        server.start()
        made.append(server)
        _admin(server, "CREATE DATABASE app")
        with psycopg.connect(server.database_url("app"), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        # In a thread of its own: an async test has a loop already.
        thread = threading.Thread(target=lambda: asyncio.run(_init(server.database_url("app"))))
        thread.start()
        thread.join()
        return server

    yield make
    for server in made:
        server.remove()


@pytest.fixture
def standby(scratch_server: Callable[..., Postgres], scratch: Path) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its physical standby, made by pg_basebackup, on loopback."""
    primary = scratch_server(wal_level="replica", hot_standby="on")
    made = standbys.make(primary, scratch / f"standby-{time.monotonic_ns()}")
    yield primary, made
    made.remove()


@pytest.fixture
async def deployment_on(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]]:
    """A deployment and its worker on a server of the test's own."""
    made: list[tuple[Deployment, Worker]] = []

    async def make(server: Postgres) -> tuple[Deployment, Worker]:
        deployment = Deployment(server.database_url("app"), tmp_path, simulator)
        for name, value in deployment.env.items():
            if name.startswith(("MIGRATOR_", "TEST_")):
                monkeypatch.setenv(name, value)
        worker = Worker.make("test")
        made.append((deployment, worker))
        return deployment, worker

    yield make
    for deployment, worker in made:
        await worker.close()
        deployment.close()
