"""The demo's stage: every server and process it needs, on loopback, in one folder that is gone at the end.

Floor 4. Promise: however the demo ends, nothing is left: processes die with this one, and the folder is removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

import migrator
from migrator.demo import processes
from migrator.demo.endpoint import MIGRATOR_KEY
from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator

#: A lease of five seconds: a killed worker's batch is taken up again while somebody watches.
LEASE_SECONDS = 5
KEY_VARIABLE = "DEMO_PROVIDER_KEY"
#: What servers on solid-state disks are set to. With the default of 4, whether a few thousand rows are searched through
#: their index hangs by a thread: it may be so for one column and not for the other.
_SETTINGS = {"random_page_cost": "1.1"}


@dataclass
class Stage:
    """Everything that runs. `env` is the operator's environment."""

    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="migrator-demo-")))
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    flower_port: int = field(default_factory=processes.free_port)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.chmod(0o711)
        self.postgres = Postgres(self.home / "postgres", settings=_SETTINGS)
        self.valkey = Valkey(self.home / "valkey")
        self.simulator = Simulator(self.home / "provider", backend="models")

    @property
    def url(self) -> str:
        """The application's database."""
        return self.postgres.database_url("shop")

    @property
    def env(self) -> dict[str, str]:
        """What an operator has set."""
        return {
            **os.environ,
            "MIGRATOR_DATABASE_URL": self.url,
            "MIGRATOR_BROKER_URL": self.valkey.url,
            "MIGRATOR_LEASE_SECONDS": str(LEASE_SECONDS),
            "MIGRATOR_INSTANCE": self.home.name,
            "MIGRATOR_FLOWER_PORT": str(self.flower_port),
            "MIGRATOR_FLOWER_AUTH": f"operator:{self.password}",
            KEY_VARIABLE: MIGRATOR_KEY,
            # One thread each: the models, the workers and the application share two cores.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def start_servers(self) -> None:
        """Start PostgreSQL, the broker and the provider, and make the application's database."""
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
        self.postgres.start()
        self.valkey.start()
        self.simulator.start()
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")

    def start_worker(self, name: str) -> None:
        """Start a Celery worker with two processes."""
        self._celery(name, "worker", "-n", f"{name}@demo", "-c", "2", "--loglevel", "INFO", "--without-mingle")

    def start_beat_and_flower(self) -> None:
        """Start beat, and Flower with a password."""
        self._celery("beat", "beat", "-s", str(self.home / "beat.db"))
        self._celery("flower", "flower", "--logging=warning")

    def _celery(self, name: str, *words: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "workers.app", *words]
        # `workers` lies beside `migrator`, in a checkout as in site-packages.
        folder = Path(migrator.__file__).parent.parent
        self._processes[name] = processes.spawn(command, self.home / f"{name}.log", env=self.env, cwd=folder)

    def kill_worker(self, name: str) -> int:
        """SIGKILL a worker with all its processes; returns its pid."""
        process = self._processes.pop(name)
        processes.kill_group(process)
        return process.pid

    def stop(self) -> None:
        """Stop everything and remove the folder."""
        for process in self._processes.values():
            processes.kill_group(process)  # they hold nothing that a lease does not give back
        self.simulator.stop()
        self.valkey.stop()
        self.postgres.remove()
        shutil.rmtree(self.home, ignore_errors=True)
