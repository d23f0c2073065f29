"""A command: the event on its standard input, its exit status as the answer.

Floor 2. Promise: no shell reads it; it gets none of our environment but what names places and languages, so no key and
no database URL; what it prints goes nowhere; after SECONDS its whole process group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

#: Seconds that a command may take.
SECONDS = 10.0
#: What it gets of our environment.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")


async def run(words: Sequence[str], body: bytes, *, seconds: float = SECONDS) -> str | None:
    """Run it once; returns None where it ended with 0, else what became of it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in KEPT if name in os.environ},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"it could not be started: {getattr(error, 'strerror', None) or type(error).__name__}"
    try:
        async with asyncio.timeout(seconds):
            await process.communicate(body)
    except TimeoutError:
        return f"it was killed after {seconds:g} s"
    finally:
        if process.returncode is None:
            # Not awaited where we are cancelled ourselves; while it is not, its number can't be another group's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
    return None if process.returncode == 0 else f"it ended with {process.returncode}"
