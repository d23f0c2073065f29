"""A physical standby of a test's server, streaming, on loopback."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psycopg

from migrator.demo.servers import Postgres, _as_nobody


def make(primary: Postgres, home: Path, **settings: str) -> Postgres:
    """Copy a running primary by pg_basebackup and start the copy as its standby `standby1`."""
    made = Postgres(home, settings={"fsync": "off", "hot_standby": "on", **settings})
    made.home.mkdir(mode=0o711)
    account = _as_nobody()
    data = made.home / "data"
    data.mkdir(mode=0o700)
    if account:
        os.chown(data, account["user"], account["group"])
    assert primary.programs is not None
    made.programs = primary.programs
    subprocess.run(
        [
            primary.programs / "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres",
            "-D", str(data), "--checkpoint=fast", "--no-sync", "-X", "stream",
        ],
        check=True, capture_output=True, cwd="/", timeout=60, **account,
    )  # fmt: skip
    (data / "standby.signal").touch()
    made.settings["primary_conninfo"] = f"host=127.0.0.1 port={primary.port} user=postgres application_name=standby1"
    made.start()
    return made


def replayed(primary: Postgres, standby: Postgres, seconds: float = 60) -> None:
    """Wait until the standby has replayed what is committed on the primary by now."""
    with psycopg.connect(primary.url, autocommit=True) as connection:
        written = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    deadline = time.monotonic() + seconds
    with psycopg.connect(standby.url, autocommit=True) as connection:
        while True:
            done = connection.execute("SELECT pg_last_wal_replay_lsn() >= %s", written).fetchone()
            if done == (True,):
                return
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.02)
