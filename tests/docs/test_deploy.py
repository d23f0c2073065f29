"""docs/deploy-*.md: the steps that can be run here are run as they are written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from tests.docs import pages
from tests.docs.pages import ROOT, read


def commands(page: str, which: int = 0) -> list[str]:
    """The lines of a page's console block, without their prompts."""
    found = [each.body for each in pages.blocks(read(ROOT / page)) if each.language == "console"]
    return [line.removeprefix("$ ") for line in found[which].splitlines()]


def test_the_secrets_of_the_compose_page_are_those_of_the_file(tmp_path: Path) -> None:
    lines = [each for each in commands("docs/deploy-compose.md") if not each.startswith("docker")]
    env = {"PATH": "/usr/bin:/bin", "EDITOR": "touch"}
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", "\n".join(lines)], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = {each.name: each for each in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(yaml.safe_load(read(ROOT / "docker-compose.yml"))["secrets"])
    password = made["postgres_password"].read_text().strip()
    assert made["database_url"].read_text().strip() == f"postgresql://postgres:{password}@postgres:5432/postgres"
    assert made["flower_login"].read_text().startswith("operator:")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert all(each.stat().st_mode & 0o777 == 0o644 for each in made.values())
