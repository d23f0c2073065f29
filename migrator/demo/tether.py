"""Become another program that dies with whoever started us: `python tether.py SIGNAL UID GID PROGRAM [ARGUMENTS]`.

Floor 4. A program of its own, and not a `preexec_fn`: Python code between fork and exec deadlocks in a process with
threads (seen: a demo that hung for ever). UID and GID are dropped to first where they are not "-", since the kernel
forgets the signal when credentials change. Linux only: PR_SET_PDEATHSIG.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Drop, tie, become."""
    number, uid, gid, *command = sys.argv[1:]
    parent = os.getppid()
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:  # it died before the tie was made
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 # nosec B606 - our own, without a shell


if __name__ == "__main__":
    main()
