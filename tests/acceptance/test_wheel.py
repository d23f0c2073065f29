"""The built wheel in an empty environment, outside the checkout: nothing may lean on the checkout's folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from migrator.demo import processes
from migrator.demo.servers import Valkey
from migrator.state import schema
from tests.deployment import ROOT, Deployment


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel from what git would clone and installs it into an empty environment; returns that."""
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    kept = ["pyproject.toml", "README.md", "LICENSE", "migrator", "workers", "migrations"]
    source.mkdir()
    for name in kept:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(home), str(source)])
    (wheel,) = home.glob("*.whl")
    # The lock without its hashes and its continuation lines serves as constraints, as in the Dockerfile.
    pins = re.findall(r"^([^\s#][^\\\n]*?)\s*\\?$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    constraints = home / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    _run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")])
    python = str(home / "venv/bin/python")
    _run([*pip, "--python", python, "install", "--no-compile", "--constraint", str(constraints), str(wheel)])
    return home / "venv"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(240)
def test_init_help_and_a_worker_from_the_wheel(
    installed: Path, deployment: Deployment, bare_database: str, broker: Valkey, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # A folder of the same name must not shadow the revisions that the wheel carries.
    (elsewhere / "migrations").mkdir()
    env = {**deployment.env, "MIGRATOR_DATABASE_URL": bare_database, "MIGRATOR_BROKER_URL": broker.url}
    env = {**env, "PATH": f"{installed / 'bin'}:{os.environ['PATH']}"}

    def migrator(*words: str) -> str:
        done = subprocess.run(
            [str(installed / "bin/migrator"), *words],
            env=env, cwd=elsewhere, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "cutover" in migrator("--help")
    deployment.url = bare_database
    with deployment.connect() as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    assert f"is at revision {schema.head()}" in migrator("init")
    assert "nothing had to be changed" in migrator("init")
    log = tmp_path / "worker.log"
    command = [str(installed / "bin/celery"), "-A", "workers.app", "worker", "-n", "wheel@test", "-c", "1"]
    worker = processes.spawn(command, log, env=env, cwd=elsewhere)
    try:
        deployment.wait(lambda: deployment.query("SELECT 1 FROM migrator.workers WHERE name = 'wheel@test'"), worker)
        # Everything that a plan needs is carried: named statements, profiles, prices.
        deployment.make_table(20)
        assert "0 batches" not in migrator("plan", str(deployment.spec_file))
        # The report's page is carried with its style; what needs no plots needs no extra.
        carried = {path.name for path in (installed / "lib").glob("python*/site-packages/migrator/report/page.*")}
        assert carried == {"page.py", "page.html", "page.css"}
        assert migrator("report", "docs", "--markdown", "-o", "-").startswith("# docs: ")
    finally:
        processes.stop(worker)
