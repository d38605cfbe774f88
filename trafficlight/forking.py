"""The loop of a process that forks others: it has imported once what each of them needs.

It reads JSON lines from a Unix socket, its standard input, and answers every request on its standard output::

    -> {"do": "start", "id": 1, "args": [...], "directory": "...", "log": "...", "files": 1}
    <- {"started": PID, "id": 1}
    -> {"do": "signal", "id": 2, "pid": PID, "number": 15}
    <- {"signalled": PID, "id": 2}
    <- {"exited": PID, "code": -15}

``files`` is how many open files come with a request. Only this process reaps and signals its children, so no
signal reaches a reused pid. When its standard input is closed, it terminates them and returns.

Needs the standard library only, because it runs in environments of homeservers too.
"""

import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

# More than a request has.
_MOST_FILES = 16


def serve(run: Callable[[list[str], list[int]], object], die_with: Callable[[int], object]) -> None:
    """Fork children until the standard input is closed, and terminate them then.

    :param run: what a child does, with its arguments and open files.
    :param die_with: lets the kernel kill a child with its parent, whose pid it gets.
    """
    children: set[int] = set()
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    requests = socket.socket(fileno=os.dup(0))
    received, files = b"", list[int]()
    sources: list[socket.socket | int] = [requests, woken]
    _send({"ready": True})
    while True:
        readable, _, _ = select.select(sources, [], [])
        if woken in readable:
            os.read(woken, 4096)
            _reap(children)
        if requests not in readable:
            continue
        chunk, more, _, _ = socket.recv_fds(requests, 65536, _MOST_FILES)
        if not chunk:
            break
        files += more
        *lines, received = (received + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if request["do"] == "start":
                own, files = files[: request["files"]], files[request["files"] :]
                parent = os.getpid()
                if (pid := os.fork()) == 0:
                    _become_child(run, die_with, parent, request, own)
                for file in own:
                    os.close(file)
                children.add(pid)
                _send({"started": pid, "id": request["id"]})
            else:
                if request["pid"] in children:
                    os.kill(request["pid"], request["number"])
                _send({"signalled": request["pid"], "id": request["id"]})
    for pid in children:
        os.kill(pid, signal.SIGTERM)  # they get what `die_with` has asked for when this process exits


def _send(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        _send({"exited": pid, "code": os.waitstatus_to_exitcode(status)})


def _become_child(
    run: Callable[[list[str], list[int]], object],
    die_with: Callable[[int], object],
    parent: int,
    request: dict[str, Any],
    files: list[int],
) -> NoReturn:
    """Run the forked child in a session of its own, and exit."""
    code = 1
    try:
        os.setsid()
        die_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        lowest = 3
        for file in sorted(files):
            os.set_inheritable(file, False)
            os.closerange(lowest, file)
            lowest = file + 1
        os.closerange(lowest, 256)
        os.chdir(request["directory"])
        run(request["args"], files)
        code = 0
    except SystemExit as exiting:
        code = exiting.code if isinstance(exiting.code, int) else int(exiting.code is not None)
        if isinstance(exiting.code, str):
            sys.stderr.write(f"{exiting.code}\n")
    except BaseException:  # noqa: BLE001 - the child only exits
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
