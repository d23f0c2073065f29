"""`./run docs`: the site is built strictly, from all pages and from the code, and nothing in it needs anything else."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import BaseModel

from manual import commands, failures, specification
from migrator.lifecycle import TRANSITIONS
from migrator.orchestrator.metrics import METRICS, UP, WORKERS
from migrator.settings import Settings
from tests.docs import pages
from tests.docs.pages import ROOT, RUNBOOKS, read
from tests.docs.site import Page
from tests.docs.test_runbooks import LEAVES, VERBS, options_of
from tests.unit.test_findings_tested import CODES

#: Hosts that the theme's scripts name. The first two they would ask, where a page had a diagram of Mermaid's or figures
#: of a repository, or in a browser of before 2020; the others stand in licences.
NAMED_IN_SCRIPTS = {"unpkg.com", "api.github.com", "bit.ly", "clipboardjs.com", "lunrjs.com", "tartarus.org"}
MODELS: list[tuple[str, type[BaseModel]]] = [*specification.TABLES.items(), ("", Settings)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `./run docs` builds it: --strict, so that a warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    began = time.monotonic()
    done = subprocess.run(
        [str(ROOT / "run"), "docs", "--site-dir", str(folder)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 60
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    """Every page of it by its path."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def shown(built: dict[Path, Page], site: Path, name: str) -> str:
    return pages.flat(built[site / name].text)


def test_every_page_of_the_repository_is_there_and_in_the_navigation(built: dict[Path, Page], site: Path) -> None:
    """A new page only needs its line in mkdocs.yml."""
    navigation = read(ROOT / "mkdocs.yml").partition("\nnav:\n")[2]
    own = [
        path.relative_to(ROOT).as_posix() for folder in ("docs", "runbooks") for path in (ROOT / folder).rglob("*.md")
    ]
    for name in [*own, *(path.name for path in ROOT.glob("*.md"))]:
        assert re.search(rf"[ :-] {re.escape(name)}$", navigation, re.MULTILINE), f"{name} is not in mkdocs.yml"
        made = name.replace("README.md", "index.html").replace(".md", ".html")
        assert site / made in built


def test_nothing_is_loaded_from_elsewhere(built: dict[Path, Page], site: Path) -> None:
    for page in built.values():
        assert [url for url in page.loads if re.match(r"[a-z]+:|//", url) and not url.startswith("data:")] == []
        # What would have the theme's scripts fetch something: Mermaid's own, or facts of a repository.
        assert page.classes.isdisjoint({"mermaid", "md-source__facts"})
        assert "fonts.g" not in read(page.path)
    for path in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import )[\"']?([a-z]+:|//)", read(path))
        assert set(found) <= {"data:"}, path
    loaded = [*(site / "assets/javascripts").glob("*.js"), *(site / "assets/javascripts/workers").glob("*.js")]
    assert len(loaded) == 2
    assert {host for path in loaded for host in re.findall(r"https?://([\w.-]+)", read(path))} <= NAMED_IN_SCRIPTS


def test_every_link_leads_to_a_page_and_a_place_on_it(built: dict[Path, Page], site: Path) -> None:
    seen = 0
    for path, page in built.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or path.name == "404.html":
                continue
            name, _, place = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_relative_to(site), f"{path.relative_to(site)}: {link} leads out of the site"
            assert target.exists(), f"{path.relative_to(site)}: {link} leads nowhere"
            if place and target in built:
                assert place in built[target].names, f"{path.relative_to(site)}: there is no {link}"
            seen += 1
    assert seen > 5000


def test_the_search_finds_what_the_tool_prints(site: Path) -> None:
    index = read(site / "search" / "search_index.json")
    for words in ("timeline changed", "reached its cap", "LeaseLost", "max_quarantined_share"):
        assert words in index


def test_blocks_and_lists_are_none_of_the_text(built: dict[Path, Page]) -> None:
    """What a forge takes for a block, a list or a table and this Markdown does not would be shown with its marks."""
    for path, page in built.items():
        if path.parts[-2] != "tests" and "/tests/" not in path.as_posix():
            assert "```" not in page.text, path
            assert not re.search(r"^\|[ -]", page.text, re.MULTILINE), path


def test_the_life_is_drawn_from_the_code(built: dict[Path, Page], site: Path) -> None:
    edges = {f"{old} {new}" for old, new_ones in TRANSITIONS.items() for new in new_ones}
    for name in ("docs/architecture.html", "runbooks/lifecycle.html"):
        assert sorted(built[site / name].edges) == sorted(edges)


# The reference has all that the code has


def test_the_reference_has_every_verb_with_every_option(built: dict[Path, Page], site: Path) -> None:
    page = built[site / "reference/cli.html"]
    assert set(VERBS) <= page.names
    assert list(commands.verbs()) == list(VERBS)
    sections = re.split(r"(?m)^(?:\d+\. )?([a-z]+)¶$", page.text)
    said = {name: body for name, body in zip(sections[1::2], sections[2::2], strict=True) if name in VERBS}
    for verb in VERBS:
        for option in options_of(verb) - {"--help"}:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", said[verb]), f"{verb} {option}"


@pytest.mark.parametrize(("table", "model"), MODELS, ids=[model.__name__ for _, model in MODELS])
def test_every_field_is_explained(table: str, model: type[BaseModel]) -> None:
    said = specification.documented(model)
    tables = {"target", "from", "to", "limits", "gates", "throttle", "hooks", "profile_overrides"}
    names = {field.alias or name for name, field in model.model_fields.items()} - tables
    assert {name for name in names if not said.get(name)} == set(), f"fields of {table} without a #: above them"


def test_the_reference_has_every_field_with_its_default(built: dict[Path, Page], site: Path) -> None:
    rows = [(row[0], row[2]) for row in built[site / "reference/spec.html"].rows if row]
    tables = {name.strip("[]").rpartition(".")[2] for name in specification.TABLES}
    for model in specification.TABLES.values():
        for name, field in model.model_fields.items():
            default: Any = field.default
            if (field.alias or name) not in tables:
                said = "needed" if field.is_required() else "" if default is None else json.dumps(default)
                assert (field.alias or name, said) in rows
    settings = [row[0] for row in built[site / "reference/settings.html"].rows if row]
    assert settings == [f"MIGRATOR_{name.upper()}" for name in Settings.model_fields]


def test_the_reference_has_every_error_finding_and_metric(built: dict[Path, Page], site: Path) -> None:
    errors = built[site / "reference/errors.html"]
    assert failures.errors() == LEAVES
    assert {kind.__name__.lower() for kind in LEAVES} <= errors.names
    for kind in LEAVES:
        assert f"../runbooks/{kind.runbook}.html" in errors.links
        assert (RUNBOOKS / f"{kind.runbook}.md").exists()
    findings = shown(built, site, "reference/findings.html")
    assert [code for code in CODES if code not in findings] == []
    metrics = shown(built, site, "reference/metrics.html")
    for name, help_text in (UP, WORKERS, *((each.name, each.help) for each in METRICS)):
        assert f"{name} " in metrics
        assert pages.flat(help_text.replace("`", "")) in metrics
