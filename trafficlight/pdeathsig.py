"""Run a command that the kernel kills when its parent dies.

Usage: ``pdeathsig.py PARENT_PID COMMAND [ARGUMENT]...``

Without ``prctl`` (on other systems than Linux) the command runs unchanged.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

# Looked up once, for all processes that a worker forks. None on other systems than Linux.
prctl = getattr(ctypes.CDLL(None), "prctl", None)


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent dies; exit if it has died already."""
    if prctl is None:
        return
    prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Request SIGKILL on the parent's death, then replace this process by the command."""
    parent, *command = sys.argv[1:]
    die_with(int(parent))
    try:
        os.execvp(command[0], command)  # noqa: S606 - replacing this process is the purpose
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
