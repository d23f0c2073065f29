"""What can be killed, and how: each disaster is one method, done to real processes with real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

from migrator.demo.servers import Postgres, Valkey
from migrator.settings import Settings
from tests.chaos.writer import Writer
from tests.deployment import Deployment

#: Longer than the lease of 2 s that tests work with.
PAST_THE_LEASE_SECONDS = 3.0


@dataclass
class World:
    """A deployment with two workers and beat, and the servers below it."""

    deployment: Deployment
    postgres: Postgres
    broker: Valkey
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    beat: subprocess.Popen[bytes] | None = None
    _started: int = 0

    def begin(self, rows: int, writer: Writer | None = None, *, workers: int = 2, latency: float = 0.1) -> None:
        """Make the table, start workers and beat, start the migration."""
        self.deployment.make_table(rows)
        if writer is not None:
            writer.make_twin()
        self.deployment.simulator.admin(latency_seconds=latency)
        for _ in range(workers):
            self.start_worker()
        self.start_beat()
        self.deployment.wait(self._all_signed, log="workers have signed")
        self.deployment.must("start", self.deployment.spec_file, "--yes")

    def _all_signed(self) -> bool:
        return len(self.deployment.query("SELECT 1 FROM migrator.workers")) >= len(self.workers)

    def start_worker(self, *options: str) -> None:
        self._started += 1
        name = f"w{self._started}"
        self.workers.append(
            self.deployment.spawn(
                sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", f"{name}@test", "-c", "2",
                "--loglevel", "INFO", *options, log=f"{name}.log",
            )
        )  # fmt: skip

    def start_beat(self) -> None:
        self._started += 1
        self.beat = self.deployment.beat(f"beat-{self._started}")

    # The disasters

    def worker_is_killed(self) -> None:
        """SIGKILL of a worker and all its processes; a supervisor starts another."""
        self.deployment.kill(self.workers.pop(0))
        self.start_worker()

    def child_is_killed(self) -> None:
        """SIGKILL of one process of a pool, as the kernel does when memory is short."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.children()[-1], signal.SIGKILL)

    def child_stalls(self) -> None:
        """A process sleeps past its lease and wakes."""
        child = self.children()[0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
            time.sleep(PAST_THE_LEASE_SECONDS)
            os.kill(child, signal.SIGCONT)

    def beat_is_killed(self) -> None:
        """SIGKILL of beat; two come back."""
        assert self.beat is not None
        self.deployment.kill(self.beat)
        self.start_beat()

    def broker_is_killed(self) -> None:
        """SIGKILL of the broker, which comes back with what it had on disk."""
        self.broker.kill()
        self.broker.start()

    def broker_is_flushed(self) -> None:
        """FLUSHALL: every message and every binding is gone."""
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self.broker.url) as client:
            client.flushall()

    def postgres_is_killed(self) -> None:
        """SIGKILL of the postmaster and every backend; crash recovery."""
        self.postgres.kill()
        self.postgres.start()

    def backends_are_terminated(self) -> None:
        """pg_terminate_backend of everything of ours, wherever it is between two statements."""
        with contextlib.suppress(psycopg.OperationalError):
            self.deployment.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'migrator%%'"
                " AND pid <> pg_backend_pid()"
            )

    def children(self) -> list[int]:
        """The processes of every pool."""
        found: list[int] = []
        for worker in self.workers:
            with contextlib.suppress(FileNotFoundError):
                words = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
                found += [int(pid) for pid in words]
        return found

    # The end

    def most_tokens_in_flight(self) -> int:
        """What all processes can have had at the provider at one moment, by the largest request that was billed."""
        processes = 2 * len(self.workers)
        largest = max(entry["tokens"] for entry in self.deployment.entries())
        return processes * Settings.model_fields["concurrency"].default * largest

    def wait_for(self, status: str, seconds: float) -> None:
        """Wait for a status."""
        self.deployment.wait_for(status, seconds)

    def wait_until_ready_and_clean(self, seconds: float = 180) -> None:
        """Wait until it is ready and catch-up has nothing left."""
        self.deployment.wait(self._is_clean, log="ready and clean", seconds=seconds)

    def _is_clean(self) -> bool:
        try:
            (status, reason), *_ = self.deployment.query("SELECT status, reason FROM migrator.migrations")
            assert status != "paused", reason
            return status == "ready" and not self.deployment.value("SELECT count(*) FROM migrator.dirty")
        except psycopg.OperationalError:
            return False
