"""The command line: verbs in the order of a migration's life; errors as three sentences and an exit code.

Floor 4. Promise (P13): a refusal is never exit 0, and no traceback shows a value. `migrator --help` loads no verb's
machinery: every verb imports what it needs when it runs.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from typing import Any, Protocol, runtime_checkable

import typer

from migrator import __version__
from migrator.cli import (
    alive,
    batches,
    cancel,
    cleanup,
    compare,
    console,
    cutover,
    demo,
    doctor,
    exporter,
    fence,
    grants,
    init,
    limits,
    pause,
    pilot,
    plan,
    report,
    resume,
    retry,
    rollback,
    rows,
    schedule,
    simulate,
    start,
    status,
    unblock,
    validate,
    work,
)
from migrator.errors import Defect, MigratorError

INTERRUPTED = 130


@runtime_checkable
class _Shown(Protocol):
    """What typer raises for wrong usage: it can show itself, and knows its exit code."""

    exit_code: int

    def show(self) -> None:
        """Print usage and message on stderr."""


app = typer.Typer(
    name="migrator",
    help="Move a live pgvector table from one embedding model to the next.\n\n"
    "The life of a migration: init, doctor, plan, pilot, start, (the workers go on by themselves), cutover, "
    "rollback or cleanup.\n\n"
    "Settings, also from .env:\n\n"
    "\b\n"
    "  the table's database, postgresql://...       (env: MIGRATOR_DATABASE_URL)\n"
    "  the broker, redis://... or amqp://...        (env: MIGRATOR_BROKER_URL)\n"
    "  seconds until a silent worker loses a batch  (env: MIGRATOR_LEASE_SECONDS)\n"
    "  provider requests in flight per process      (env: MIGRATOR_CONCURRENCY)\n"
    "  niceness of workers' processes, 10           (env: MIGRATOR_NICE)\n"
    "  1: [hooks] of a spec may run commands here   (env: MIGRATOR_ALLOW_COMMAND_HOOKS)\n"
    "  the provider's key, named by the spec        (env: THE_ROUTER_API_KEY)\n\n"
    "What holds a secret may also be read from a file: NAME_FILE=/run/secrets/name instead of NAME=...",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _help(docstring: str) -> str:
    """Return a verb's help with a line per example: click would run indented lines together."""
    text, _, examples = inspect.cleandoc(docstring).partition("Examples:\n")
    lines = [line for line in examples.splitlines() if line.strip()]
    return text + "\n".join(["\b", "Examples:", *lines])


#: In life order, as --help lists them.
for verb in (
    grants,
    init,
    doctor,
    plan,
    pilot,
    start,
    work,
    status,
    pause,
    resume,
    cancel,
    limits,
    schedule,
    batches,
    rows,
    retry,
    validate,
    compare,
    fence,
    cutover,
    rollback,
    unblock,
    cleanup,
    report,
    exporter,
    alive,
    demo,
    simulate,
):
    app.command(verb.__name__.rpartition(".")[2], help=_help(verb.command.__doc__ or ""))(verb.command)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if wanted:
        typer.echo(f"migrator {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(  # noqa: FBT001 - typer's way to declare a flag
        False,  # noqa: FBT003 - its default
        "--version",
        callback=_version,
        is_eager=True,
        help="Print the version.",
    ),
) -> None:
    """Take the options that come before a verb."""
    del version


class _Aside(logging.Handler):
    """Tells a log line as the rest of what is going on."""

    def emit(self, record: logging.LogRecord) -> None:
        console.aside(record.getMessage())


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    # What our modules log is told beside the answer, unless stderr has to stay JSON.
    logging.getLogger("migrator").handlers = [logging.NullHandler() if "--json" in words else _Aside()]
    try:
        code: Any = app(args=words, prog_name="migrator", standalone_mode=False)
    except MigratorError as error:
        console.failure(error, as_json_too="--json" in words)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.aside(
            "Interrupted. What was in hand was given back; everything committed stays. Run `migrator status`."
        )
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last door: whatever comes here is a defect of ours
        if isinstance(error, _Shown):  # wrong usage: typer's own exceptions have no public base class
            error.show()
            return error.exit_code
        # Frames only: the message of a foreign exception may quote a row.
        console.aside("".join(traceback.format_tb(error.__traceback__)))
        defect = Defect(f"{type(error).__name__} reached the command line")
        console.failure(defect, as_json_too="--json" in words)
        return defect.exit_code
    return code if isinstance(code, int) else 0


def main() -> None:
    """Enter from the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
