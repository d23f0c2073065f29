"""Run Celery with a clock that goes wrong by so many seconds: `python skewed.py SECONDS worker|beat ...`.

Both clocks of Python are moved, before anything else is imported; those that only measure (monotonic) go as they are.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = float(sys.argv[1])
_right, _Right = time.time, dt.datetime


class _Kind(type):
    """What others made is a datetime, too."""

    def __instancecheck__(cls, other: object) -> bool:
        return isinstance(other, _Right)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, _Right)


class _Skewed(_Right, metaclass=_Kind):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return _Right.now(tz) + dt.timedelta(seconds=SECONDS)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(dt.UTC).replace(tzinfo=None)


if __name__ == "__main__":
    time.time = lambda: _right() + SECONDS
    dt.datetime = _Skewed
    # As `python -m celery` has it: the working directory, and not this file's.
    sys.path[0] = str(Path.cwd())
    from celery.__main__ import main

    sys.argv = ["celery", *sys.argv[2:]]
    main()
