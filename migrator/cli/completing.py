"""What a shell offers for a migration's name: those in the database, if it answers at once.

Floor 4. Promise: whoever presses Tab never waits longer than SECONDS and never sees an error; nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
import threading

#: Seconds after which nothing is offered: a shell is frozen while it asks.
SECONDS = 2


def names(incomplete: str) -> list[str]:
    """Return the names of migrations that begin with what was typed."""
    # A resolver that hangs can't be given a time limit: the process ends by itself instead, without a word.
    limit = threading.Timer(SECONDS, os._exit, [0])
    limit.daemon = True
    limit.start()
    found: list[str] = []
    with contextlib.suppress(Exception):
        found = _read()
    limit.cancel()
    return [name for name in found if name.startswith(incomplete)]


def _read() -> list[str]:
    import psycopg

    from migrator import settings

    url = settings.load().required_database_url()
    options = f"-c statement_timeout={SECONDS * 1000} -c default_transaction_read_only=on"
    with psycopg.connect(url, connect_timeout=SECONDS, options=options) as connection:
        rows = connection.execute("SELECT name FROM migrator.migrations ORDER BY id DESC LIMIT 100").fetchall()
    return [str(name) for (name,) in rows]
