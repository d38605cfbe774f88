"""Run a command that cannot outlive its starter: ``tether.py PARENT_PID COMMAND [ARGUMENT ...]``.

The kernel ends the command when the starter dies, however it dies. Where the kernel cannot (not Linux), the
command simply runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the parent's death as a signal, then become the command."""
    parent, *command = sys.argv[1:]
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (AttributeError, OSError):
        pass
    else:
        if os.getppid() != int(parent):  # it died before the request was in place
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - becoming the command is the purpose


main()
