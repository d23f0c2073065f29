"""Flower's settings, with their reasons. Read by `celery -A workers.app flower`: `workers.app` names this file to it.

Floor 4. Flower can terminate and revoke tasks. That harms nothing: the lease ends, and the work is done again. To stop
a migration, use `migrator pause`: what Flower does is not remembered.
"""

from __future__ import annotations

import os
import socket
import sys

#: Loopback, unless somebody decides otherwise: Flower can stop workers.
address = os.environ.get("MIGRATOR_FLOWER_ADDRESS", "127.0.0.1")
port = int(os.environ.get("MIGRATOR_FLOWER_PORT", "5555"))
if os.environ.get("MIGRATOR_FLOWER_AUTH"):
    #: "user:password"; without it Flower answers its pages and refuses its API. Flower takes a list or nothing.
    basic_auth = [os.environ["MIGRATOR_FLOWER_AUTH"]]
#: What an operator reads of a task: its words, not its internals.
tasks_columns = "name,uuid,args,state,result,received,runtime,worker"
#: Rows of the task list; more would push Flower's memory over what a batch of text is worth.
max_tasks = 20_000
natural_time = True


def _refuse_a_taken_port() -> None:
    """End with three sentences where Flower itself would end with a traceback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            sys.stderr.write(
                f"Flower can't listen on {address}:{port}: {error.strerror}.\n"
                "Nothing was started; workers and migrations go on without it.\n"
                "Set MIGRATOR_FLOWER_PORT (or MIGRATOR_FLOWER_ADDRESS), then start it again.\n"
            )
            raise SystemExit(2) from None


_refuse_a_taken_port()
