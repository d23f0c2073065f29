"""P13: a refusal is never exit 0, and every message says what happened, how things stand, and what to do next."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
from collections.abc import Hashable, Iterator
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer

import migrator
from migrator import errors
from migrator.cli.app import INTERRUPTED, app
from migrator.errors import AtRest, Defect, GateFailed, MigratorError, OperatorError, TransientError
from migrator.planning.findings import Finding, Severity
from migrator.spec import Problem
from migrator.target.message import Blocker, LockNotObtained

ROOT = Path(__file__).resolve().parents[2]
#: The contract's exit codes, by the branch of the tree; 130 is the interrupt, which is no error of ours.
EXIT_CODES = {OperatorError: 2, GateFailed: 3, AtRest: 4, TransientError: 75, Defect: 1}
#: The inner nodes: nobody raises them, they have no sentences of their own.
BRANCHES = {OperatorError, AtRest, TransientError}
#: A value for every type that a leaf's field has. Braces: a value that looks like a placeholder is not filled again.
VALUES: dict[str, Any] = {
    "str": "x{y}z",
    "int": 12_345,
    "float": 7.25,
    "Decimal": Decimal("50.00"),
    "list[str]": ["first", "second"],
    "list[Problem]": [Problem("[to] model", "it is missing", "name it")],
    "Sequence[Finding]": [Finding("table_missing", Severity.REFUSE, "docs", "there is no such table", "make it")],
    "list[Blocker]": [Blocker(4711, "app", "web", "idle in transaction", "client backend", 12.0)],
}
#: A field that is a command itself.
NAMED = {"following": "migrator status docs"}
#: What tells the operator to do something, where no command can be named because it is the one that was just run.
ACTIONS = re.compile(r"run (?:it|the same command) again|run them again", re.IGNORECASE)
COMMAND = re.compile(r"`((?:\./run|migrator|pip|CREATE)\b[^`]*)`")


def below(kind: type[MigratorError]) -> Iterator[type[MigratorError]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


def everything() -> list[type[MigratorError]]:
    """Every error of ours: all modules are imported, since leaves stand beside what they are about."""
    for module in pkgutil.walk_packages(migrator.__path__, "migrator."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    # Tests may make errors of their own.
    ours = {kind for kind in below(MigratorError) if kind.__module__.partition(".")[0] == "migrator"}
    return sorted(ours - BRANCHES, key=lambda kind: (kind.__module__, kind.__name__))


LEAVES = everything()
each_leaf = pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)


def values_of(kind: type[MigratorError]) -> dict[str, Any]:
    return {field.name: NAMED.get(field.name, VALUES[str(field.type)]) for field in fields(kind)}


def sentences_of(kind: type[MigratorError]) -> tuple[str, str, str]:
    return kind(**values_of(kind)).sentences()


def commands() -> dict[str, set[str]]:
    """Every verb of the command line with its options."""
    group = typer.main.get_command(app)
    verbs: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    return {name: {word for each in verb.params for word in each.opts} | {"--help"} for name, verb in verbs.items()}


VERBS = commands()


def test_p13_the_tree_is_found_whole() -> None:
    assert {GateFailed, Defect, errors.Declined, LockNotObtained} <= set(LEAVES)
    assert len(LEAVES) > 40
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "migrator").rglob("*.py"))
    bases = "|".join(kind.__name__ for kind in [MigratorError, *EXIT_CODES])
    written = set(re.findall(rf"^class (\w+)\((?:{bases})\):", text, re.MULTILINE))
    assert written - {kind.__name__ for kind in BRANCHES} == {kind.__name__ for kind in LEAVES}


def test_p13_nothing_else_is_raised_at_an_operator() -> None:
    """Exceptions outside the tree are caught by the module beside the one that raises them."""
    internal = {"RefusedError", "LostError", "UnbelievableError", "TemplateError", "RedisAwayError", "UnreadableError"}
    for path in (ROOT / "migrator").rglob("*.py"):
        if {"demo", "client"} & {*path.parts}:
            continue  # its own processes' words among themselves; what applications' authors meet
        found = re.findall(
            r"^class (\w+)\((?:\w*Exception|\w+Error)\):", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert set(found) <= internal | {kind.__name__ for kind in [MigratorError, *BRANCHES, *LEAVES]}, path


@each_leaf
def test_p13_str_is_three_sentences(kind: type[MigratorError]) -> None:
    error = kind(**values_of(kind))
    happened, state, following = error.sentences()
    assert str(error) == f"{happened} {state} {following}"
    for sentence in (happened, state, following):
        assert sentence.rstrip()[-1] in ".:" or "\n  - " in sentence, f"no sentence: {sentence}"
        assert len(sentence.split()) > 1
    assert len({happened, state, following}) == 3
    assert happened != MigratorError.happened, "it says nothing of what happened"


@each_leaf
def test_p13_every_field_is_filled_and_none_is_forgotten(kind: type[MigratorError]) -> None:
    text = str(kind(**values_of(kind)))
    assert re.findall(r"\{[^}]*\}", text.replace(VALUES["str"], "")) == []
    if "sentences" not in vars(kind):
        named = re.findall(r"\{(\w+)[^}]*\}", f"{kind.happened} {kind.state} {kind.next}")
        assert set(named) == {field.name for field in fields(kind)}


@each_leaf
def test_p13_it_names_the_next_command_or_what_to_do(kind: type[MigratorError]) -> None:
    following = sentences_of(kind)[2]
    assert COMMAND.search(following) or ACTIONS.search(following), f"neither a command nor an action: {following}"


@each_leaf
def test_p13_the_commands_it_names_exist_with_their_options(kind: type[MigratorError]) -> None:
    for command in re.findall(r"`(migrator [^`]+)`", f"{kind.happened} {kind.state} {kind.next}"):
        words = command.replace("{verb}", "cutover").split()
        assert words[1] in VERBS, command
        assert {word for word in words[2:] if word.startswith("--")} <= VERBS[words[1]], command


def test_p13_every_command_that_any_message_names_exists() -> None:
    for path in (ROOT / "migrator").rglob("*.py"):
        for command in re.findall(r"`(migrator [a-z]+[^`{]*)", path.read_text(encoding="utf-8")):
            words = command.split()
            assert words[1] in VERBS, f"{path.relative_to(ROOT)}: {command}"
            options = {word.strip(",;.") for word in words[2:] if word.startswith("--")}
            assert options <= VERBS[words[1]], f"{path.relative_to(ROOT)}: {command}"


@each_leaf
def test_p13_a_refusal_is_never_exit_0(kind: type[MigratorError]) -> None:
    assert kind.exit_code in {*EXIT_CODES.values(), INTERRUPTED}
    for branch, code in EXIT_CODES.items():
        if issubclass(kind, branch):
            assert kind.exit_code == code, f"{kind.__name__} is below {branch.__name__}"


def test_p13_the_branches_have_the_contracts_exit_codes() -> None:
    assert {kind.__name__: kind.exit_code for kind in EXIT_CODES} == {
        "OperatorError": 2,
        "GateFailed": 3,
        "AtRest": 4,
        "TransientError": 75,
        "Defect": 1,
    }
    assert INTERRUPTED == 130
    assert MigratorError.exit_code == 1


@each_leaf
def test_p13_it_names_its_runbook(kind: type[MigratorError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.runbook)
    assert kind is Defect or kind.runbook != MigratorError.runbook, "it inherits the runbook of the unexpected"


@each_leaf
def test_p13_it_survives_the_way_between_processes(kind: type[MigratorError]) -> None:
    """Celery's pool pickles what a task raises; an error that can't be made again kills the child's answer."""
    values = values_of(kind)
    again = pickle.loads(pickle.dumps(kind(**values)))  # noqa: S301 - made here
    assert type(again) is kind
    assert {name: getattr(again, name) for name in values} == values
    assert again.sentences() == sentences_of(kind)
    assert isinstance(again, Hashable), "an exception group can't hold what has no hash"


@each_leaf
def test_p13_json_says_the_same(kind: type[MigratorError]) -> None:
    error = kind(**values_of(kind))
    shown = error.as_json()
    assert (shown["happened"], shown["state"], shown["next"]) == error.sentences()
    assert shown["error"] == kind.__name__
    assert shown["exit_code"] == kind.exit_code
    assert shown["runbook"] == f"runbooks/{kind.runbook}.md"
    assert set(shown["fields"]) == set(values_of(kind))
    assert all(isinstance(value, str) for value in shown["fields"].values())
