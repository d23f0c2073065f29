"""`./run audit`: bandit finds nothing in our code, and would; a list that nobody could look into is no clean one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import ROOT


def bandit(*what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bandit", "--quiet", "--recursive", "--configfile", "pyproject.toml", *what]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_bandit_finds_nothing_in_what_is_shipped() -> None:
    found = bandit("migrator", "workers", "migrations")
    assert found.returncode == 0, found.stdout


def test_bandit_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "unsafe.py").write_text("import pickle\n\npickle.loads(b'')\n")
    found = bandit(str(tmp_path))
    assert found.returncode == 1
    assert "B301" in found.stdout


def test_each_check_that_is_left_out_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    skips = text[text.index("[tool.bandit]") :].partition("]\n\n")[0]
    lines = [line for line in skips.splitlines() if '"B' in line]
    assert lines
    assert all(re.fullmatch(r'  "B\d{3}", # .{20,}', line) for line in lines), lines
    for path in [*(ROOT / "migrator").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "nosec" not in line or re.search(r"# nosec B\d{3} - .+", line), (path, line)


LOOKED, SKIPPED = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "Dependency not found"}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "CVE-2026-1"}]}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([LOOKED], 0, "1 of 1 packages were looked up; 0 are vulnerable"),
        ([LOOKED, SKIPPED], 75, "the rest were NOT: the list of vulnerabilities can't be reached"),
        ([SKIPPED], 75, "0 of 1 packages were looked up"),
        ([], 75, "0 of 0 packages were looked up"),
        (None, 75, "0 of 0 packages were looked up"),
        ([BAD, SKIPPED], 1, "c 2: CVE-2026-1"),
    ],
)
def test_what_could_not_be_looked_up_is_never_called_clean(
    packages: list[dict[str, Any]] | None, code: int, words: str, tmp_path: Path
) -> None:
    """pip-audit itself skips it and exits with 0."""
    found = tmp_path / "found"
    if packages is not None:
        found.write_text(json.dumps({"dependencies": packages, "fixes": []}))
    done = subprocess.run(
        [sys.executable, ".ci/audited.py", found], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert words in done.stdout + done.stderr
