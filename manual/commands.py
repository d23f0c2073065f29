"""Reference of the command line, from typer's own commands: every verb with every argument and option.

Floor 5.
"""

from __future__ import annotations

from typing import Any

import typer

from manual.markdown import code, table
from migrator.cli.app import app

_INTRODUCTION = """# The command line

Verbs in the order of a migration's life. Each also has `--help`. `migrator --install-completion` teaches the shell that
it is typed in (bash, zsh, fish) verbs, options and the names of the migrations in the database; for another shell,
`_MIGRATOR_COMPLETE=source_zsh migrator` prints the script. Reads have `--json`; what changes something asks at a
terminal, needs `--yes` elsewhere, and has `--dry-run`. Errors are three sentences on stderr: what happened, how things
stand, the next command ([Errors](errors.md)).

| exit code | says |
| --- | --- |
| 0 | done |
| 1 | a defect of the tool |
| 2 | refused, declined, or wrong usage; nothing was changed |
| 3 | a gate did not pass |
| 4 | at rest by a limit: cap, window, breaker |
| 75 | try again later, or not converging |
| 130 | interrupted |
"""


def verbs() -> dict[str, Any]:
    """Return every verb, as typer made it, in the order of `--help`."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return commands


def page() -> str:
    """Return the page."""
    return _INTRODUCTION + "".join(_verb(name, command) for name, command in verbs().items())


def _verb(name: str, command: Any) -> str:
    said, _, examples = (command.help or "").partition("\b\nExamples:\n")
    context = command.make_context(f"migrator {name}", [], resilient_parsing=True)
    parts = [f"## `{name}`\n", f"{said.strip()}\n", f"```text\n{command.get_usage(context)}\n```\n"]
    if command.params:
        rows = [_parameter(each.get_help_record(context)) for each in command.params]
        parts.append(table(["argument or option", "does", "default, bounds"], rows))
    lines = "".join(f"$ {line.strip()}\n" for line in examples.splitlines())
    parts.append(f"```console\n{lines}```\n")
    return "\n" + "\n".join(parts)


def _parameter(told: tuple[str, str]) -> list[str]:
    """Take apart what `--help` says of an option: its names, what it does, and `[default: 50; x>=1]`."""
    names, does = told
    said, _, rule = does.partition("  [")
    return [code(names), said, code(rule.removesuffix("]"))]
