"""A real PgBouncer in transaction mode, as Debian has it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from migrator.demo import processes
from tests.conftest import find_program


@contextmanager
def pooler(url: str, scratch: Path, users: Sequence[str] = ("postgres",), *, size: int = 20) -> Iterator[str]:
    """One before a server, with so many connections to it for each user; yields its URL for the first of them.

    With a `size` of 1 whoever comes next gets what the last one left.
    """
    program, server, port = find_program("pgbouncer"), urlsplit(url), processes.free_port()
    assert program is not None, "apt-get install pgbouncer"
    home = scratch / f"pgbouncer-{port}"
    home.mkdir(mode=0o711)
    accounts, settings, log = home / "users.txt", home / "pgbouncer.ini", home / "pgbouncer.log"
    accounts.write_text("".join(f'"{user}" ""\n' for user in users))
    settings.write_text(
        f"[databases]\n* = host={server.hostname} port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {accounts}\npool_mode = transaction\ndefault_pool_size = {size}\n"
    )
    # It refuses to be root, and reads these once more when it is `nobody`.
    for path in (accounts, settings):
        path.chmod(0o644)
    account = ["-u", "nobody"] if os.getuid() == 0 else []
    process = processes.spawn([program, *account, str(settings)], log)
    try:
        processes.wait_until(lambda: processes.accepts(port), process, log, seconds=20)
        yield f"postgresql://{users[0]}@127.0.0.1:{port}{server.path}"
    finally:
        processes.stop(process)
