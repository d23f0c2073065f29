"""`migrator exporter`, scraped as Prometheus does it, beside what `status` says."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from migrator.demo import processes
from migrator.demo.servers import Postgres
from migrator.orchestrator.metrics import METRICS
from tests.deployment import V4, Deployment, embed, literal

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Exporter:
    """A running exporter of a deployment."""

    def __init__(self, deployed: Deployment) -> None:
        self.url = f"127.0.0.1:{processes.free_port()}"
        self.log = deployed.home / "exporter.log"
        command = [sys.executable, "-m", "migrator", "exporter", "--listen", self.url]
        self.process: subprocess.Popen[bytes] = deployed.spawn(*command, log="exporter.log")
        deployed.wait(lambda: processes.accepts(int(self.url.rpartition(":")[2])), self.process, "exporter")

    def text(self) -> str:
        return httpx.get(f"http://{self.url}/metrics", timeout=20).raise_for_status().text

    def scrape(self) -> Samples:
        return parsed(self.text())


@pytest.fixture
def exporter(deployed: Deployment) -> Iterator[Exporter]:
    made = Exporter(deployed)
    yield made
    processes.stop(made.process)


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted({"migration": "docs", **labels}.items()))]


def test_a_scrape_says_what_status_says(deployed: Deployment, exporter: Exporter) -> None:
    assert exporter.scrape() == {("migrator_up", ()): 1.0, ("migrator_workers", ()): 0.0}
    deployed.make_table(60)
    deployed.must("plan", deployed.spec_file)
    deployed.must("start", deployed.spec_file, "--yes")
    deployed.must("work", "docs")
    deployed.must("cutover", "docs", "--yes", "--readers-ready")
    with deployed.connect() as connection:
        # A writer that was not deployed, under a name that must not become a label.
        connection.execute("SET application_name = 'a name of somebody'")
        vector = literal(embed("text-embedding-v3", "secret words"))
        connection.execute("UPDATE docs SET body = 'secret words', embedding = %s WHERE id = 1", [vector])
    deployed.wait(lambda: value(exporter.scrape(), "migrator_dirty_rows", side="to") == 1, exporter.process)
    text, status = exporter.text(), json.loads(deployed.must("status", "docs", "--json"))
    found = parsed(text)
    assert value(found, "migrator_status", status="completed") == 1
    assert sum(each for (name, _), each in found.items() if name == "migrator_status") == 1
    for state in ("total", "done", "skipped", "quarantined", "remaining"):
        assert value(found, "migrator_rows", state=state) == status["rows"][state], state
    for state in ("done", "leased", "pending", "failed"):
        assert value(found, "migrator_batches", state=state) == status["batches"][state], state
    assert value(found, "migrator_cost_usd", kind="spent") == pytest.approx(status["cost"]["usd"])
    assert value(found, "migrator_cost_cap_usd") == status["cost"]["max_usd"]
    assert value(found, "migrator_diverted_writes", generation="text-embedding-v3@64") == 1
    assert value(found, "migrator_live_generation", generation=f"qwen/{V4}@64") == 1
    assert value(found, "migrator_rollback_window_open") == 1
    gates = {each["gate"]: float(each["passed"]) for each in status["verdicts"]}
    assert {dict(labels)["gate"]: each for (name, labels), each in found.items() if name == "migrator_gate_passed"} == (
        gates
    )
    assert ("migrator_eta_seconds", (("migration", "docs"),)) not in found, "what is not known is left out"
    known = {each.name: {"migration", *each.labels} for each in METRICS}
    for name, labels in found:
        assert {label for label, _ in labels} == known.get(name, set()), name
    assert "somebody" not in text
    assert "secret" not in text


def test_the_exporter_outlives_its_database(deployed: Deployment, exporter: Exporter, postgres: Postgres) -> None:
    assert exporter.scrape()["migrator_up", ()] == 1
    name = psycopg.conninfo.conninfo_to_dict(deployed.url)["dbname"]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        deployed.wait(lambda: exporter.scrape() == {("migrator_up", ()): 0.0}, exporter.process)
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
    deployed.wait(lambda: exporter.scrape()["migrator_up", ()] == 1, exporter.process)
    said = exporter.log.read_text()
    assert said.count("The database answers again.") == 1
    exporter.process.send_signal(signal.SIGTERM)
    assert exporter.process.wait(20) == 0


def test_it_tells_where_it_can_not_listen(deployed: Deployment) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = deployed.run("exporter", "--listen", address)
    assert done.returncode == 2
    assert f"The exporter can't listen on {address}: Address already in use." in done.stderr
    assert deployed.run("exporter", "--listen", "nowhere").returncode == 2
