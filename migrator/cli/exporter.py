"""`migrator exporter`.

Floor 4. Promise: a scrape is one reading of Postgres, whoever scrapes and however often; while Postgres is away the
exporter stays, and says so (`migrator_up 0`).
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console
from migrator.errors import MigratorError, OperatorError

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from sqlalchemy.ext.asyncio import AsyncEngine

    from migrator.orchestrator.metrics import Reading

#: Port that OpenTelemetry's Prometheus exporters listen on by default; 9187 is postgres_exporter's.
_PORT = 9464
#: Seconds for which a reading is told again: several Prometheus servers scrape the same exporter.
_BELIEVED_SECONDS = 1.0
#: Seconds that a scrape may take: the reading's own, and a moment for a connection.
_SCRAPE_SECONDS = 9.0


@dataclass(eq=False)
class AddressTaken(OperatorError):
    """Somebody listens there, or the address is none of this machine's."""

    address: str
    problem: str

    runbook = "exporter"
    happened = "The exporter can't listen on {address}: {problem}."
    state = "Nothing was started; workers and migrations go on without it."
    next = "Choose another one: `migrator exporter --listen 127.0.0.1:9465`."


def command(
    *,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", envvar="MIGRATOR_EXPORTER_LISTEN", help="Where metrics are served.")
    ] = f"127.0.0.1:{_PORT}",
) -> int:
    """Serve metrics for Prometheus until it is stopped.

    Each scrape reads Postgres, as `status` does. No login is asked for, so it listens on loopback unless it is told
    otherwise. Names and meanings are in docs/metrics.md; deploy/ has alert rules and a dashboard.

    Examples:
        migrator exporter

        migrator exporter --listen 0.0.0.0:9464
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - the highest port
        raise typer.BadParameter("write it as ADDRESS:PORT, such as 127.0.0.1:9464", param_hint="--listen")
    asyncio.run(_serve(host.strip("[]"), int(port)))
    return 0


async def _serve(host: str, port: int) -> None:
    from prometheus_client import CollectorRegistry, start_http_server

    from migrator.spending.worker import Worker

    worker = Worker.make("exporter")
    registry = CollectorRegistry()
    registry.register(_Collector(worker.engine, asyncio.get_running_loop()))
    ended = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        await worker.close()
        raise AddressTaken(f"{host}:{port}", error.strerror or str(error)) from None
    console.say(f"http://{host}:{server.server_port}/metrics   (Ctrl-C ends it)")
    try:
        await ended.wait()
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
        await worker.close()


class _Collector:
    """Reads Postgres in the process's one event loop, from whichever thread a scrape comes in."""

    def __init__(self, engine: AsyncEngine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._found: tuple[list[Reading], int] | None = None
        self._why: str | None = None

    def describe(self) -> list[Metric]:
        """Say nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return every metric of every migration."""
        from prometheus_client.core import GaugeMetricFamily

        from migrator.orchestrator.metrics import METRICS, UP, WORKERS

        found = self._now()
        yield GaugeMetricFamily(*UP, value=float(found is not None))
        if found is None:
            return
        readings, workers = found
        yield GaugeMetricFamily(*WORKERS, value=workers)
        for metric in METRICS:
            family = GaugeMetricFamily(metric.name, metric.help, labels=("migration", *metric.labels))
            for each in readings:
                for labels, value in metric.told(each):
                    family.add_metric(labels, value)
            yield family

    def _now(self) -> tuple[list[Reading], int] | None:
        """Return what Postgres says, at most a second old; None where it says nothing."""
        from migrator.orchestrator import metrics

        with self._lock:
            if time.monotonic() - self._read_at > _BELIEVED_SECONDS:
                asked = asyncio.run_coroutine_threadsafe(metrics.read(self._engine), self._loop)
                try:
                    self._found, why = asked.result(_SCRAPE_SECONDS), None
                except MigratorError as error:
                    self._found, why = None, str(error)
                except TimeoutError:
                    asked.cancel()
                    self._found, why = None, f"The database gave no answer within {_SCRAPE_SECONDS:.0f} s."
                self._read_at = time.monotonic()
                # Told once, not with every scrape.
                if why != self._why:
                    console.aside(why or "The database answers again.")
                self._why = why
            return self._found
