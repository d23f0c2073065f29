"""Child processes that can't outlive us.

Floor 4. Promise: however this process ends, SIGKILL included, its children end too (the kernel tells them, see
`tether`), and a group that is stopped is stopped whole. Linux only, as the embedded servers are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_TETHER = Path(__file__).with_name("tether.py")


class NotReady(Exception):
    """A server of the demo did not come up."""


def tethered(command: Sequence[str | Path], death_signal: int, account: tuple[int, int] | None = None) -> list[str]:
    """Return a command that dies with this process, and runs as (uid, gid) where they are given."""
    uid, gid = account if account is not None else ("-", "-")
    words = [str(death_signal), str(uid), str(gid), *(str(part) for part in command)]
    # -I -S: nothing of an environment or of site-packages is needed, so it starts in 15 ms.
    return [sys.executable, "-I", "-S", str(_TETHER), *words]


def free_port() -> int:
    """Return a TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: int = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to `log`, its temporary files beside that."""
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603 - the commands are ours
            tethered(command, death_signal),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # A process that is killed can't remove its temporary files: here they go with its log.
            env={**(os.environ if env is None else env), "TMPDIR": str(log.parent)},
            cwd=cwd,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], *, first: int = signal.SIGTERM, patience_seconds: float = 15) -> None:
    """End a process and whatever is left of its group; SIGKILL after `patience_seconds`."""
    if process.poll() is None:
        process.send_signal(first)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_seconds)
    kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and its whole group, and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()


def kill_with_children(process: subprocess.Popen[bytes], *, patience_seconds: float = 10) -> None:
    """SIGKILL a process, its group, and its children in sessions of their own; returns when none of them is left.

    Raises: NotReady, when some are after `patience_seconds`.
    """
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGSTOP)  # so that it makes no further ones
    left = children(process.pid)
    kill_group(process)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + patience_seconds
    while any(_is_alive(pid) for pid in left):
        if time.monotonic() > deadline:
            raise NotReady(f"children of {process.args!r} did not end")
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return a process's children, by their pids."""
    return [
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and _stat(each.name)[1:2] == [str(pid)]
    ]


def _is_alive(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"])


def _stat(pid: int | str) -> list[str]:
    """Return a process's state, parent and more, as the kernel tells them; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    """Wait for a condition while the process lives.

    Raises: NotReady, with the end of the log, when it ends or the time is over.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            why = f"ended with {process.returncode}" if ended else f"was not ready after {seconds:.0f} s"
            raise NotReady(f"{process.args!r} {why}:\n{tail}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    """Say whether something listens on that port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.2):
            return True
    except OSError:
        return False
