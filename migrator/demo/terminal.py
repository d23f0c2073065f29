"""Showing commands as an operator types them, with their true output.

Floor 4.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer


class CommandFailed(Exception):
    """A command of the story ended with another exit code than the story says."""


@dataclass(slots=True)
class Terminal:
    """Runs `migrator` commands in a folder and shows what they print."""

    folder: Path
    env: dict[str, str]

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command to its end; returns what it printed.

        Raises: CommandFailed.
        """
        self._prompt(words)
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "migrator", *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        typer.echo(done.stdout, nl=False)
        if done.returncode != code:
            raise CommandFailed(f"`migrator {' '.join(words)}` ended with {done.returncode}, not {code}")
        return done.stdout

    def follow(self, *words: str, on_line: Callable[[str], None]) -> None:
        """Run a command that goes on for a while, showing each line as it comes.

        Raises: CommandFailed.
        """
        self._prompt(words)
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "migrator", *words],
            cwd=self.folder,
            env={**self.env, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        watchdog = threading.Timer(600, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            for line in process.stdout:
                typer.echo(line, nl=False)
                on_line(line)
            if process.wait() != 0:
                raise CommandFailed(f"`migrator {' '.join(words)}` ended with {process.returncode}")
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()

    @staticmethod
    def _prompt(words: tuple[str, ...]) -> None:
        typer.echo()
        typer.secho(f"$ migrator {' '.join(words)}", bold=True)


_began = time.monotonic()


def chapter(title: str) -> None:
    """Begin a part of the story; tells the seconds since its beginning."""
    typer.echo()
    typer.secho(f"== {title} [{time.monotonic() - _began:.0f} s]", fg=typer.colors.CYAN, bold=True)


def tell(line: str) -> None:
    """Say what is going on outside the commands."""
    typer.secho(f"   {line}", dim=True)
