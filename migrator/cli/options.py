"""Arguments and options that several verbs share, described once.

Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrator.cli import completing

_name = typer.Argument(help="The migration's name.", show_default=False, autocompletion=completing.names)
Name = Annotated[str, _name]
OptionalName = Annotated[str | None, _name]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec file (TOML).", show_default=False)]
CancelBlockers = Annotated[
    bool,
    typer.Option("--cancel-blockers", help="Cancel what others run on the table, behind a first try; no session ends."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and errors as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking; needed where there is no terminal.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
