"""Start Synapses by forking an interpreter that has imported Synapse already.

Most of Synapse's start is imports. This script runs in the virtual environment of one Synapse version,
imports it once, and forks for every server. It speaks JSON lines on stdin and stdout::

    -> {"do": "start", "id": 1, "args": [...], "directory": "...", "log": "..."}
    <- {"started": PID, "id": 1}
    -> {"do": "signal", "pid": PID, "number": 15}
    <- {"exited": PID, "code": -15}

Only this process reaps and signals the servers, so a signal never meets a reused pid. When its starter dies,
or closes stdin, everything dies with it.
"""

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
import traceback
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _preload() -> tuple[Any, Any]:
    """Import Synapse behind a stand-in for Twisted's reactor: a real one must not be made before the fork."""
    module = "synapse.app.complement_fork_proxied_reactor"
    if importlib.util.find_spec(module) is None:
        module = "synapse.app.complement_fork_starter"  # where it was in older versions
    reactor = importlib.import_module(module).ProxiedReactor()
    importlib.import_module("twisted.internet.main").installReactor(reactor)
    homeserver = importlib.import_module("synapse.app.homeserver")
    gc.collect()
    gc.freeze()  # the children share these pages for as long as nobody touches them
    return reactor, homeserver


def _become_server(reactor: Any, homeserver: Any, request: dict[str, Any], parent: int) -> NoReturn:
    """Turn the forked child into the homeserver; never returns to the caller's loop."""
    code = 1
    try:
        os.setsid()
        _die_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 256)
        os.chdir(request["directory"])
        sys.argv = ["synapse.app.homeserver", *request["args"]]
        reactor._install_real_reactor(importlib.import_module("twisted.internet.epollreactor").EPollReactor())
        homeserver.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            sys.stderr.write(f"{leaving.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        _tell({"exited": pid, "code": os.waitstatus_to_exitcode(status)})


def _serve(reactor: Any, homeserver: Any) -> None:
    children: set[int] = set()
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    own_pid = os.getpid()
    pending = b""
    _tell({"ready": True})
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _reap(children)
        if 0 not in readable:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if request["do"] == "start":
                pid = os.fork()
                if pid == 0:
                    _become_server(reactor, homeserver, request, own_pid)
                children.add(pid)
                _tell({"started": pid, "id": request["id"]})
            elif request["pid"] in children:
                os.kill(request["pid"], request["number"])
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Preload, then serve requests until stdin ends."""
    _die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reactor, homeserver = _preload()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _serve(reactor, homeserver)


if __name__ == "__main__":
    main()
