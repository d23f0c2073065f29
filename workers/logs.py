"""Logs of workers and beat: a line an event, as text or as JSON, with the migration, batch and attempt it is about.

Floor 4. Promise (P11): a line holds what the code says and the names of migrations, batches and hosts; never a row's
text, a key, a vector or a secret, and of an exception its traceback without the values of its variables. Celery's own
lines go the same way. `MIGRATOR_LOG_FORMAT=json` is for collectors; `text`, the default, is for people.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from celery.signals import setup_logging
from structlog.typing import Processor

from migrator import settings

#: What every line gets, ours and those of the libraries.
_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def formatter(log_format: str) -> logging.Formatter:
    """Return what makes a line of a record; `log_format` is "json" or "text"."""
    last: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        foreign_pre_chain=_SHARED,
    )


@setup_logging.connect
def set_up(loglevel: int | str | None = None, logfile: str | None = None, **_: Any) -> None:
    """Take the place of Celery's own set-up, with its `--loglevel` and `--logfile`."""
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(formatter(settings.load().log_format))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(loglevel or logging.WARNING)
