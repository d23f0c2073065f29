"""TLS end to end: a certificate is looked at on every way out, by the authority that the operator names."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from migrator.hooks import webhook
from tests.deployment import Deployment
from tests.receiving import SECRET, receiving
from tests.tls import Authority, in_front_of

_UNREACHABLE = 75


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def strangers(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "strangers")


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@pytest.fixture
def broker_over_tls(deployed: Deployment, ours: Authority) -> Iterator[None]:
    with in_front_of(port_of(deployed.broker_url), ours.server()) as port:
        deployed.broker_url = f"rediss://localhost:{port}/0"
        yield


def broker_says(deployed: Deployment, env: dict[str, str]) -> tuple[str, str]:
    checks = json.loads(deployed.run("doctor", "--json", env=env).stdout)
    (found,) = [each for each in checks if each["name"] == "broker"]
    return found["level"], found["message"]


def trusting_worker(deployed: Deployment, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", "w1@test", "-c", "1"]
    process = deployed.spawn(*command, "--loglevel", "INFO", log="w1.log", env=env)
    deployed.wait(lambda: deployed.query("SELECT 1 FROM migrator.workers"), process, "a worker over TLS")


def refused_by_a_worker(deployed: Deployment, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", "w1@test", "-c", "1"]
    process = deployed.spawn(*command, log="refusing.log", env=env)
    log = deployed.home / "refusing.log"
    deployed.wait(lambda: "CERTIFICATE_VERIFY_FAILED" in log.read_text(), process, "a worker's refusal", seconds=30)
    deployed.kill(process)


@pytest.mark.usefixtures("broker_over_tls")
def test_a_migration_runs_over_a_broker_with_tls(deployed: Deployment, ours: Authority) -> None:
    """The authority is that of SSL_CERT_FILE, as for every program that uses OpenSSL."""
    env = {"SSL_CERT_FILE": str(ours.file)}
    assert broker_says(deployed, env)[0] == "ok"
    deployed.make_table(20)
    trusting_worker(deployed, env)
    deployed.spawn(sys.executable, "-m", "celery", "-A", "workers.app", "beat", log="beat.log", env=env)
    deployed.must("start", deployed.spec_file, "--yes")
    deployed.wait_for("ready")
    assert "insecure" not in (deployed.home / "w1.log").read_text()


@pytest.mark.usefixtures("broker_over_tls")
@pytest.mark.parametrize("told", ["strangers", "nothing"])
def test_a_broker_whose_certificate_is_not_trusted_is_refused(
    told: str, deployed: Deployment, strangers: Authority
) -> None:
    env = {"SSL_CERT_FILE": str(strangers.file)} if told == "strangers" else {}
    level, message = broker_says(deployed, env)
    assert level == "fail"
    assert "ConnectionError" in message
    refused_by_a_worker(deployed, env)
    assert deployed.query("SELECT 1 FROM migrator.workers") == []


def test_a_broker_of_another_name_is_refused(deployed: Deployment, ours: Authority) -> None:
    env = {"SSL_CERT_FILE": str(ours.file)}
    with in_front_of(port_of(deployed.broker_url), ours.server("other.example")) as port:
        deployed.broker_url = f"rediss://localhost:{port}/0"
        refused_by_a_worker(deployed, env)
        assert broker_says(deployed, env)[0] == "fail"


def test_an_authority_may_stand_in_the_brokers_address(
    deployed: Deployment, ours: Authority, strangers: Authority
) -> None:
    with in_front_of(port_of(deployed.broker_url), ours.server()) as port:
        deployed.broker_url = f"rediss://localhost:{port}/0?ssl_ca_certs={strangers.file}"
        refused_by_a_worker(deployed, {})
        deployed.broker_url = f"rediss://localhost:{port}/0?ssl_ca_certs={ours.file}"
        assert broker_says(deployed, {})[0] == "ok"
        trusting_worker(deployed, {})


def test_the_providers_certificate_is_looked_at(deployed: Deployment, ours: Authority, strangers: Authority) -> None:
    deployed.make_table(20)
    with in_front_of(port_of(deployed.simulator.base_url), ours.server()) as port:
        path = urlsplit(deployed.simulator.base_url).path
        deployed.spec_data["to"]["base_url"] = f"https://localhost:{port}{path}"
        for env in ({}, {"SSL_CERT_FILE": str(strangers.file)}):
            done = deployed.run("doctor", deployed.spec_file, env=env)
            assert done.returncode == 2
            assert f"https://localhost:{port}{path} can't be reached (ConnectError)" in done.stdout
        assert deployed.simulator.ledger()["tokens"] == 0, "nothing was sent to whom nobody trusts"
        env = {"SSL_CERT_FILE": str(ours.file)}
        done = deployed.run("start", deployed.spec_file, "--yes", env=env)
        assert done.returncode == 0, done.stderr
        done = deployed.run("work", "docs", "--until", "ready", env=env)
        assert done.returncode == 0, done.stderr
        assert deployed.mismatches("embedding__migrator", "text-embedding-v4") == []


async def test_a_hooks_certificate_is_looked_at(
    ours: Authority, strangers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver, in_front_of(port_of(receiver.url), ours.server()) as port:
        url = f"https://localhost:{port}/hook"
        for file in (None, strangers.file):
            if file is not None:
                monkeypatch.setenv("SSL_CERT_FILE", str(file))
            assert await webhook.post(url, "1", b"{}", SECRET) == "ConnectError"
        assert receiver.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))
        assert await webhook.post(url, "1", b"{}", SECRET) is None
        assert receiver.verified()


def test_the_databases_certificate_is_looked_at(deployed: Deployment, ours: Authority, strangers: Authority) -> None:
    plain = deployed.url
    with in_front_of(port_of(plain), ours.server(), postgres=True) as port:
        there = plain.replace(f"127.0.0.1:{port_of(plain)}", f"localhost:{port}")
        assert there != plain
        deployed.url = f"{there}?sslmode=verify-full&sslrootcert={ours.file}"
        assert "There is no migration in this database yet" in deployed.must("status")
        deployed.url = f"{there}?sslmode=verify-full&sslrootcert={strangers.file}"
        assert "certificate verify failed" in deployed.must("status", code=_UNREACHABLE)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_database_without_tls_is_refused_where_tls_is_asked_for(
    mode: str, deployed: Deployment, ours: Authority
) -> None:
    deployed.url += f"?sslmode={mode}&sslrootcert={ours.file}"
    said = deployed.must("status", code=_UNREACHABLE).strip().splitlines()
    assert said[0].startswith("The database at 127.0.0.1:")
    assert said[0].endswith("server does not support SSL, but SSL was required.")
    assert said[1].startswith("Nothing was changed")
    assert "`migrator doctor`" in said[2]
