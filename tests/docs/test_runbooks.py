"""Runbooks say what the code says: every symptom in the tool's words, every command run, every link alive."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
import pytest
import redis
import typer

import migrator
from migrator import lifecycle
from migrator.cli import app as cli
from migrator.demo.servers import Valkey
from migrator.demo.simulator.control import Simulator
from migrator.errors import MigratorError
from tests.deployment import Deployment
from tests.docs import pages
from tests.docs.pages import ROOT, RUNBOOKS, flat, read

SECTIONS = ["You see", "Meaning", "Impact", "Diagnosis", "Do", "Verify", "Undo"]
#: Pages that are no runbook: an index, a drawing, a dictionary.
ABOUT = {"README", "lifecycle", "glossary", "signals"}
#: One screen, on a tall monitor.
MAX_LINES, MAX_COLUMNS = 75, 120
#: The exit codes that a command of the documents may end with. Not 1, a defect of ours.
DOCUMENTED = {0, 2, 3, 4, 75}
#: The verbs as they are run here: `docs` goes through its whole life, so that each of them has something to do. `work`
#: and `status --watch` are run too: they end by themselves when it is `ready`.
LIFE = [
    "grants", "init", "doctor", "plan", "pilot", "start", "fence", "work", "status", "batches", "rows", "retry",
    "schedule", "limits", "pause", "resume", "validate", "report", "compare", "cutover", "rollback", "unblock",
    "resume", "cancel", "cleanup",
]  # fmt: skip
#: Who owns the table that the commands are run on.
OWNER = "runbooks_owner"
#: Verbs that are only parsed: the demo starts servers and models of its own, and takes a minute; the simulator serves
#: until it is stopped, and test_simulate.py holds its rehearsals; so does the exporter (test_exporter.py).
PARSED_ONLY = {"demo", "simulate", "exporter"}
#: Programs that the documents may ask an operator to type.
PROGRAMS = {
    "migrator", "celery", "psql", "redis-cli", "./run", "git", "cd", "cp", "cat", "export", "pip", "pipx", "uv", "uvx",
    "python", "python3", "docker", "kill", "createdb", "pg_dump", "systemctl", "curl", "jq",
}  # fmt: skip
#: What setting a host up takes besides, on the pages about that alone.
DEPLOYING = {
    "mkdir", "openssl", "tee", "sed", "echo", "$EDITOR", "touch", "chmod", "install", "kubectl",
    "/opt/pgvector-migrator/bin/pip", "/opt/pgvector-migrator/bin/migrator",
}  # fmt: skip
#: A value for every type of an error's field, to be recognised in its sentence and read as "anything".
BLANKS: dict[str, Any] = {
    "str": "BLANK",
    "int": 777_777_777,
    "float": 777_777_777.0,
    "Decimal": Decimal(777_777_777),
    "list[str]": ["BLANK"],
    "list[Problem]": ["BLANK"],
    "Sequence[Finding]": ["BLANK"],
    "list[Blocker]": ["BLANK"],
}
_BLANK = re.compile(r"BLANK|777777777(?:\.0+)?")


def below(kind: type[MigratorError]) -> Iterator[type[MigratorError]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


def leaves() -> list[type[MigratorError]]:
    """Every error with words of its own: all modules are imported, since errors stand beside what they are about."""
    for module in pkgutil.walk_packages(migrator.__path__, "migrator."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {kind for kind in below(MigratorError) if kind.__module__.startswith("migrator.")}
    return sorted(
        (kind for kind in found if {"happened", "sentences"} & vars(kind).keys()), key=lambda kind: kind.__name__
    )


LEAVES = leaves()
SYMPTOMS = sorted(path for path in RUNBOOKS.glob("*.md") if path.stem not in ABOUT)
each_error = pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
each_symptom = pytest.mark.parametrize("path", SYMPTOMS, ids=lambda path: path.stem)


def you_see(path: Path) -> str:
    """The section that quotes the tool."""
    return flat(pages.sections(read(path))["You see"])


def wildcards(parts: Sequence[str]) -> re.Pattern[str]:
    return re.compile(".+?".join(re.escape(part) for part in parts))


# Every error has a runbook, and every runbook a reason


def test_the_errors_are_found() -> None:
    names = {kind.__name__ for kind in LEAVES}
    assert {"Defect", "GateFailed", "LockNotObtained", "SpecInvalid", "RowsLeft", "LeaseLost"} <= names
    assert len(LEAVES) > 40


@each_error
def test_every_error_has_a_runbook_that_quotes_it(kind: type[MigratorError]) -> None:
    path = RUNBOOKS / f"{kind.runbook}.md"
    assert path.is_file(), f"{kind.__name__} names {path.relative_to(ROOT)}"
    happened, _, _ = kind(**{field.name: BLANKS[str(field.type)] for field in fields(kind)}).sentences()
    assert wildcards(_BLANK.split(flat(happened))).search(you_see(path)), f"{path.name} does not quote: {happened}"


@each_symptom
def test_every_runbook_is_named_by_an_error_or_by_the_index(path: Path) -> None:
    linked = pages.links(read(RUNBOOKS / "README.md"))
    assert path.stem in {kind.runbook for kind in LEAVES} or path.name in linked
    assert path.name in linked, "the index has every symptom"


def test_the_index_quotes_what_its_runbooks_quote() -> None:
    rows = re.findall(r"^\| (.+?) \| \[[^\]]+\]\((.+?)\) \|$", read(RUNBOOKS / "README.md"), re.MULTILINE)
    assert len(rows) >= len(SYMPTOMS)
    for words, page in rows:
        for quoted in pages.spans(words):
            pattern = wildcards([part.strip() for part in quoted.split("...")])
            assert pattern.search(you_see(RUNBOOKS / page)), f"{page} does not quote: {quoted}"


# The form of a runbook


@each_symptom
def test_a_runbook_has_its_sections_in_order_and_fits_a_screen(path: Path) -> None:
    text = read(path)
    found = pages.sections(text)
    assert list(found) == SECTIONS
    assert all(body.strip() for body in found.values())
    assert [block.language for block in pages.blocks(found["You see"])] == ["text"], "literal words, in one block"
    assert re.findall(r"^- (\w+):", found["Impact"], re.MULTILINE) == ["Readers", "Writers", "Cost"]
    assert pages.commands(found["Diagnosis"])
    steps = re.findall(r"^(\d+)\. ", found["Do"], re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)]
    assert steps
    assert len(text.splitlines()) <= MAX_LINES


@each_symptom
def test_what_destroys_is_marked(path: Path) -> None:
    for name, body in pages.sections(read(path)).items():
        for step in re.split(r"^(?=\d+\. |- )", body, flags=re.MULTILINE):
            named = [" ".join(words) for words in pages.commands(step)]
            named += pages.spans(step) if name in {"Do", "Undo"} else []
            destroys = [
                words
                for words in named
                if re.match(r"migrator cleanup \w+(?!.*--dry-run)", words) or "pg_terminate_backend" in words
            ]
            assert not destroys or "POINT OF NO RETURN" in step, f"{name}: {destroys}"


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_lines_fit_a_terminal(path: Path) -> None:
    assert [line for line in read(path).splitlines() if len(line) > MAX_COLUMNS] == []


def test_the_life_is_drawn_as_the_code_has_it() -> None:
    text = read(RUNBOOKS / "lifecycle.md")
    assert [block.body.rstrip("\n") for block in pages.blocks(text)] == [lifecycle.mermaid()]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    edges = [
        (str(old), str(new), why) for old, new_ones in lifecycle.TRANSITIONS.items() for new, why in new_ones.items()
    ]
    assert rows == edges


# Every command works


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and everything that it printed."""

    code: int
    printed: str


VERBS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def options_of(verb: str) -> set[str]:
    return {name for each in VERBS[verb].params for name in each.opts} | {"--help"}


def typed(program: str) -> list[tuple[str, ...]]:
    """What the documents have an operator type after the name of a program, each once, in a fixed order."""
    found = {words for path in pages.pages() for words in pages.commands(read(path))}
    own = {words[1:] for words in found if words[0] == program}
    if program == "migrator":
        own |= {words[2:] for words in found if words[:2] == ("./run", "migrator")}
        own |= {words[3:] for words in found if words[1:3] == ("-m", "migrator")}
        # Runbooks also name whole commands within a sentence.
        spans = [span for path in SYMPTOMS for span in pages.spans(read(path)) if span.startswith("migrator ")]
        own |= {tuple(shlex.split(span)[1:]) for span in spans}
    return sorted(own)


@pytest.fixture
def deployed(
    database: str, simulator: Simulator, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """A table of 30 rows whose operator's shell is this process: settings in the environment, docs.toml beside it."""
    made = Deployment(database, tmp_path, simulator, valkey.url)
    made.make_table(30)
    # As it is where nobody works as a superuser: a member of one could become one, so that is never granted.
    with made.connect() as connection:
        connection.execute(
            f"DO $$ BEGIN CREATE ROLE {OWNER}; EXCEPTION WHEN duplicate_object THEN NULL; END $$".encode()
        )
        connection.execute(f"ALTER TABLE docs OWNER TO {OWNER}; ALTER VIEW docs_view OWNER TO {OWNER}".encode())
    assert made.spec_file.name == "docs.toml"
    monkeypatch.chdir(tmp_path)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


def test_only_known_programs_are_asked_for() -> None:
    for path in pages.pages():
        known = PROGRAMS | DEPLOYING if path.name.startswith("deploy-") else PROGRAMS
        unknown = {words[0] for words in pages.commands(read(path))} - known
        assert unknown == set(), f"{path.relative_to(ROOT)}: {unknown}"


def test_every_verb_of_run_exists() -> None:
    known = set(re.findall(r"^    ([a-z]+)(?: \|[^)]*)?\)$", read(ROOT / "run"), re.MULTILINE))
    assert {"demo", "test", "help"} <= known
    assert {words[0] for words in typed("./run") if words} <= known


def test_every_migrator_command_runs(deployed: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    """`migrator`'s own entry, in this process: a process for each would take a second each."""

    def run(*words: str) -> Outcome:
        capfd.readouterr()
        code = cli.run(list(words))
        return Outcome(code, "".join(capfd.readouterr()))

    commands = typed("migrator")
    assert len(commands) > 30
    succeeded: set[str] = set()
    for words in [each for each in commands if each and each[0].startswith("-")]:
        assert run(*words).code == 0, words
    verbs = {words[0] for words in commands if words and not words[0].startswith("-")}
    assert verbs <= {*LIFE, *PARSED_ONLY}, "a verb that is not run here"
    for verb in LIFE:
        # What changes nothing comes first: once it is done, there would be nothing to rehearse.
        harmless = {"--dry-run", "--rehearse"}
        for words in sorted((each for each in commands if each[:1] == (verb,)), key=lambda e: (not harmless & {*e}, e)):
            asked = ("--yes",) if "--yes" in options_of(verb) and not {"--yes", "-y"} & {*words} else ()
            outcome = run(*words, *asked)
            assert outcome.code in DOCUMENTED, f"{words}: exit {outcome.code}\n{outcome.printed}"
            assert "Traceback" not in outcome.printed, words
            assert "Usage:" not in outcome.printed, f"{words} is no command of ours:\n{outcome.printed}"
            if outcome.code == 0 and not harmless & {*words}:
                succeeded.add(verb)
        if verb == "limits":  # so that what follows is neither slow nor outside a window
            assert run("limits", "docs", "--rpm", "0", "--tpm", "0", "--max-cost", "1", "--window", "always").code == 0
    assert set(LIFE) <= succeeded, "each verb of the runbooks did its work once"
    assert deployed.status == "cleaned"


def test_commands_that_are_not_run_here_parse() -> None:
    for words in typed("migrator"):
        if words[:1] and words[0] in PARSED_ONLY:
            VERBS[words[0]].make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_named_in_the_text_exist_with_their_options(path: Path) -> None:
    for span in pages.spans(read(path)):
        words = span.split()
        if words[:2] == ["./run", "migrator"]:
            words = words[1:]
        if words[0] != "migrator" or len(words) < 2 or words[1].startswith("-"):
            continue
        assert words[1] in VERBS, f"`{span}`"
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options_of(words[1]), f"`{span}`"


def test_every_sql_statement_of_the_runbooks_runs(deployed: Deployment) -> None:
    """`psql URL -c SQL`: here by psycopg, on a table that is being moved."""
    for step in (["init"], ["plan", "docs.toml"], ["start", "docs.toml", "--yes"], ["work", "docs"]):
        assert cli.run(step) == 0
    statements = []
    for words in typed("psql"):
        url, flag, sql = words
        assert (url, flag) == ("$MIGRATOR_DATABASE_URL", "-c"), words
        statements.append(sql)
    assert len(statements) > 10
    with psycopg.connect(deployed.url) as connection:
        for sql in statements:
            # What ends somebody's session is looked at, not done: its pid is an example.
            looked = f"EXPLAIN {sql}" if "pg_terminate_backend" in sql else sql
            connection.execute(looked.encode())
            connection.rollback()


def test_every_redis_command_is_answered(deployed: Deployment) -> None:
    for words in typed("redis-cli"):
        assert words[:2] == ("-u", "$MIGRATOR_BROKER_URL"), words
        client = redis.Redis.from_url(deployed.broker_url)
        assert client.execute_command(*words[2:])
        client.close()


def test_every_celery_command_parses() -> None:
    """With --help at its end: a wrong option or command is refused before the help is shown, and nothing starts."""
    forms = typed("celery")
    assert {words[:3] for words in forms} <= {
        ("-A", "workers.app", "worker"), ("-A", "workers.app", "beat"), ("-A", "workers.app", "flower"),
    }  # fmt: skip
    assert forms

    def parse(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celery", *words, "--help"],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    with ThreadPoolExecutor(2) as pool:
        for words, done in zip(forms, pool.map(parse, forms), strict=True):
            assert done.returncode == 0, f"celery {words}: {done.stderr}"
            assert "Usage:" in done.stdout


# Every link leads somewhere


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(path: Path) -> None:
    for link in pages.links(read(path)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, fragment = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        if fragment and target.suffix == ".md":
            assert fragment in pages.anchors(read(target)), f"{link}: there is no such heading"
