"""The embedded servers come back from a crash at once: whatever is tried with their kills counts on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psycopg

from migrator.demo.servers import Postgres


def test_a_killed_postgresql_leaves_nothing_that_keeps_the_next_one_out(
    scratch_server: Callable[..., Postgres],
) -> None:
    """Its backends are in sessions of their own, and hold its shared memory until the last of them is gone."""
    server = scratch_server(shared_buffers="512MB", max_connections="80")
    for _ in range(5):
        with contextlib.ExitStack() as clients:
            for _ in range(60):
                client = clients.enter_context(psycopg.connect(server.url, autocommit=True))
                client.execute("CREATE TEMP TABLE kept AS SELECT generate_series(1, 3000) AS n")
            server.kill()
            server.start()
