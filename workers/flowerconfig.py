"""Flower's settings, with their reasons. Read by `celery -A workers.app flower`: `workers.app` names this file to it.

Floor 4. Promise: without a login nobody can change anything here; with one, Flower's buttons work as Flower's users
know them, and harm no migration: a lease ends, and the work is done again. What is said on Flower's command line, or by
its own FLOWER_... variables, holds. To stop a migration, use `migrator pause`: what Flower does is not remembered.
"""

from __future__ import annotations

import ast
import contextlib
import os
import socket
import sys
from typing import Any

from flower.utils import strtobool
from tornado.options import options

from migrator import settings
from migrator.settings import SettingInvalid

#: What an operator reads of a task: its words, not its internals.
_COLUMNS = "name,uuid,args,state,result,received,runtime,worker"
#: Rows of the task list; more would push Flower's memory over what a batch of text is worth.
_MAX_TASKS = 20_000
#: Seconds after which a worker that is gone leaves the list: a container that was started again has another name.
_GONE_SECONDS = 86_400
#: Milliseconds between two writes of what Flower remembers: SIGKILL loses a minute of its list.
_SAVE_MILLISECONDS = 60_000
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def _refused(sentence: str, mend: str) -> SystemExit:
    """End with three sentences where Flower itself would end with a traceback."""
    state = "Nothing was started; workers and migrations go on without it."
    sys.stderr.write(f"{sentence}\n{state}\n{mend}, then start it again.\n")
    return SystemExit(2)


def _login() -> str | None:
    """Return "user:password", or None: not on the command line, which everybody on the machine may read."""
    try:
        login = settings.secret("MIGRATOR_FLOWER_AUTH")
    except SettingInvalid as error:
        raise _refused(error.sentences()[0], "Mend it") from None
    if login is not None and ":" not in login:
        raise _refused("MIGRATOR_FLOWER_AUTH can't be used: it must be user:password.", "Mend it")
    return login


def _read_only() -> bool | None:
    """Return what MIGRATOR_FLOWER_READ_ONLY says, or None where it says nothing."""
    told = os.environ.get("MIGRATOR_FLOWER_READ_ONLY")
    try:
        return bool(strtobool(told)) if told else None
    except ValueError:
        raise _refused("MIGRATOR_FLOWER_READ_ONLY can't be used: it must be 1 or 0.", "Mend it") from None


def _port() -> int:
    told = os.environ.get("MIGRATOR_FLOWER_PORT") or options.port
    try:
        return int(told)
    except ValueError:
        raise _refused("MIGRATOR_FLOWER_PORT can't be used: it must be a number.", "Mend it") from None


def _unless_told(name: str, value: Any) -> Any:
    """Return our value, or what Flower's own variable says: this file would outdo it."""
    return options[name] if f"FLOWER_{name.upper()}" in os.environ else value


#: Loopback, unless somebody decides otherwise: what a list of tasks tells is not for the network.
address = os.environ.get("MIGRATOR_FLOWER_ADDRESS") or options.address or "127.0.0.1"
port = _port()
tasks_columns = _unless_told("tasks_columns", _COLUMNS)
max_tasks = _unless_told("max_tasks", _MAX_TASKS)
purge_offline_workers = _unless_told("purge_offline_workers", _GONE_SECONDS)
natural_time = _unless_told("natural_time", True)  # noqa: FBT003 - the option's value
if (_auth := _login()) is not None:
    basic_auth = [_auth]  # Flower takes a list or nothing
if _db := os.environ.get("MIGRATOR_FLOWER_DB"):
    db, persistent = _db, True
    state_save_interval = _unless_told("state_save_interval", _SAVE_MILLISECONDS)


def format_task(task: Any) -> Any:
    """Show a task in words: a result without Python's quotes, and no arguments but those that our own tasks are given.

    What a stranger put on the broker is not shown; a worker would refuse it anyway.
    """
    with contextlib.suppress(ValueError, SyntaxError, TypeError):
        told = ast.literal_eval(task.result)
        task.result = told if isinstance(told, str) else task.result
    if not str(task.name).startswith("migrator."):
        task.args = task.kwargs = "not of ours"
    return task


def _decide() -> None:
    """Decide what depends on everything that was said: here, in the environment and on the command line."""
    login = options.basic_auth or options.auth
    told = _read_only()
    options.read_only = (options.read_only or not login) if told is None else told
    if not options.unix_socket:
        _refuse_a_taken_port(options.address, options.port)
    if not login and not options.unix_socket and options.address not in _LOOPBACK:
        sys.stderr.write(
            f"Flower listens on {options.address} without a login: whoever reaches it reads names, ranges and costs of"
            " migrations. Set MIGRATOR_FLOWER_AUTH=user:password (or MIGRATOR_FLOWER_AUTH_FILE).\n"
        )


def _refuse_a_taken_port(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            sentence = f"Flower can't listen on {address}:{port}: {error.strerror}."
            raise _refused(sentence, "Set MIGRATOR_FLOWER_PORT (or MIGRATOR_FLOWER_ADDRESS)") from None


#: Called when Flower has read its command line, which has the last word.
options.add_parse_callback(_decide)
