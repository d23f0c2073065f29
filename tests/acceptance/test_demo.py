"""The demo, as `./run demo` starts it: its story, its exit code, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.docs.session import README, TUTORIAL, first_untrue


@pytest.fixture
def stage(scratch: Path) -> Iterator[Path]:
    """A folder for temporary files, open to the account that PostgreSQL runs under."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    folder.chmod(0o711)
    yield folder
    assert list(folder.iterdir()) == [], "the demo left files behind"
    folder.rmdir()


def demo(stage: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "migrator", "demo", *words],
        env={**os.environ, "TMPDIR": str(stage), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def offspring(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


#: Seconds that the story may take: 60 on a quiet machine, more than 220 beside other tests on one that is throttled.
STORY_SECONDS = 500


@pytest.mark.timeout(STORY_SECONDS + 20)
def test_the_whole_story_is_true_and_leaves_nothing_behind(stage: Path, tmp_path: Path) -> None:
    summary, page = tmp_path / "summary.json", tmp_path / "report.html"
    with demo(stage, "--rows", "800", "--summary", str(summary), "--report", str(page)) as process:
        said, _ = process.communicate(timeout=STORY_SECONDS)
    assert process.returncode == 0, said
    found = json.loads(summary.read_text())
    assert found["ok"] is True
    assert found["wrong_generation_answers"] == 0
    assert found["failed_statements"] == 0
    assert found["answers_checked"] > 500
    assert found["in_flight_at_kill_tokens"] > 0
    assert found["tokens_billed"] <= found["tokens_needed"] + found["in_flight_at_kill_tokens"]
    assert found["quality_after"]["fr>en"] > found["quality_before"]["fr>en"] + 0.1
    for word in ("init", "doctor", "plan", "start", "status", "cutover", "rollback", "cleanup", "report"):
        assert f"$ migrator {word}" in said
    assert "SIGKILL: worker" in said
    for told in (README, TUTORIAL):
        assert first_untrue(said, told) is None, f"the session of {told.name} is not what was printed"
    assert "key-of-the-migrator" not in said
    assert said.rstrip().endswith(str(page)), "it ends with the path of what there is to look at"
    shown = page.read_text()
    assert shown.count("<svg") >= 7, "also after the cleanup: what was measured outlives the shadow column"
    assert "key-of-the-migrator" not in shown


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("line", "number"),
    [("== An application", signal.SIGINT), ("$ migrator doctor", signal.SIGINT), ("SIGKILL: worker", signal.SIGTERM)],
)
def test_interrupted_at_any_moment_it_leaves_nothing_behind(stage: Path, line: str, number: signal.Signals) -> None:
    with demo(stage, "--rows", "800") as process:
        assert process.stdout is not None
        for said in process.stdout:
            if line in said:
                break
        time.sleep(0.3)
        started = offspring(process)
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(30) == 130, rest
    assert "Interrupted" in rest
    assert gone(started)
