"""Tab in a real shell: verbs, and names of migrations from the database; nothing, and soon, where it is not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.cli import completing
from tests.deployment import Deployment

#: How bash asks: the script that the tool prints is read, then its function is called as bash does for Tab.
_ASK = """
eval "$(migrator --show-completion)"
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_migrator_completion migrator
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def bash(script: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIGRATOR_")}
    return subprocess.run(
        ["/bin/bash", "-c", script],
        env={**kept, "PATH": path, "HOME": str(home), **env},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def offered(home: Path, words: str, **env: str) -> list[str]:
    done = bash(_ASK.format(words=words), home, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/app"


def test_tab_offers_the_names_that_are_in_the_database(deployment: Deployment, tmp_path: Path) -> None:
    deployment.make_table(5)
    deployment.must("plan", deployment.spec_file)
    for words in ("migrator status d", "migrator cutover ''", "migrator pause d", "migrator report do"):
        assert offered(tmp_path, words, MIGRATOR_DATABASE_URL=deployment.url) == ["docs"]
    assert offered(tmp_path, "migrator status x", MIGRATOR_DATABASE_URL=deployment.url) == []
    assert offered(tmp_path, "migrator sta") == ["start", "status"]
    assert "--rehearse" in offered(tmp_path, "migrator cutover --re")


def test_tab_is_silent_and_quick_where_the_database_is_not(bare_database: str, silent: str, tmp_path: Path) -> None:
    nowhere = "postgresql://me@127.0.0.1:1/app"
    for url in (silent, nowhere, bare_database, "no url at all", ""):
        began = time.monotonic()
        assert offered(tmp_path, "migrator status d", MIGRATOR_DATABASE_URL=url) == []
        assert time.monotonic() - began < completing.SECONDS + 8, url


def test_a_resolver_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """What no time limit of the driver's covers: the process ends by itself, without a word."""
    code = (
        "import time\nfrom migrator.cli import app, completing\ncompleting._read = lambda: time.sleep(60)\napp.main()\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "_MIGRATOR_COMPLETE": "complete_bash", "COMP_WORDS": "migrator status d", "COMP_CWORD": "2"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert completing.SECONDS <= time.monotonic() - began < completing.SECONDS + 8


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str, tmp_path: Path) -> None:
    script = bash("migrator", tmp_path, _MIGRATOR_COMPLETE=f"source_{shell}").stdout
    assert f"_MIGRATOR_COMPLETE=complete_{shell}" in script


def test_it_is_shown_and_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    """`; true`, since bash hands itself over to the last command of a script."""
    assert (
        "complete -o default -F _migrator_completion migrator"
        in bash("migrator --show-completion bash; true", tmp_path).stdout
    )
    done = bash("migrator --install-completion; true", tmp_path)
    assert "bash completion installed" in done.stdout
    assert "migrator" in (tmp_path / ".bashrc").read_text()
