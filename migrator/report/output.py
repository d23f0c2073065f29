"""Where a report goes: a file, written whole or not at all, or stdout.

Floor 4, below the doors.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import OperatorError


@dataclass(eq=False)
class ReportNotWritten(OperatorError):
    """The file can't be written."""

    path: str
    why: str

    runbook = "report-not-made"
    happened = "The report could not be written to {path}: {why}."
    state = "Nothing was written and nothing was changed."
    next = "Name a file in a folder that you may write to, or `-o -` to print it, and run the same command again."


@dataclass(eq=False)
class PlotsMissing(OperatorError):
    """The extra that draws is not installed."""

    package: str

    runbook = "report-not-made"
    happened = "The package {package}, which the page's plots need, is not installed."
    state = "Nothing was written and nothing was changed."
    next = "Run `pip install 'pgvector-migrator[report]'`; `--markdown` and `--json` work without it."


def write(path: Path, text: str) -> None:
    """Write a file whole: beside its place first, then over what was there.

    Raises: ReportNotWritten.
    """
    if path.is_dir():
        raise ReportNotWritten(str(path), "it is a folder")
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as made:
            made.write(text)
        unfinished = Path(made.name)
        try:
            # As open() would have made it: a temporary file is its maker's alone.
            umask = os.umask(0)
            os.umask(umask)
            unfinished.chmod(0o666 & ~umask)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ReportNotWritten(str(path), error.strerror or type(error).__name__) from None
