"""`./run`, from whatever folder it is called."""

from __future__ import annotations

import subprocess
from pathlib import Path

from migrator import __version__
from tests.deployment import ROOT


def test_it_works_from_a_folder_whose_files_are_named_like_pythons_own(tmp_path: Path) -> None:
    """`python -m` and `-c` look first into the folder that they are called from."""
    for name in ("re", "venv", "hashlib", "enum"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    words = [str(ROOT / "run"), "migrator", "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"migrator {__version__}\n"), done.stderr
