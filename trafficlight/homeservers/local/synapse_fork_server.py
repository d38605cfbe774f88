"""Start Synapses by forking an interpreter that has already imported Synapse.

Most of a Synapse's start-up is imports. This script runs in the virtual environment of one Synapse version,
imports it once, and forks for every homeserver. It speaks JSON lines on stdin and stdout, and answers every
request::

    -> {"do": "start", "id": 1, "args": [...], "directory": "...", "log": "..."}
    <- {"started": PID, "id": 1}
    -> {"do": "signal", "id": 2, "pid": PID, "number": 15}
    <- {"signalled": PID, "id": 2}
    <- {"exited": PID, "code": -15}

Only this process reaps and signals the homeservers, so no signal reaches a reused pid. When its parent dies
or closes stdin, it kills them and exits.
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


def _preload() -> Any:
    """Import Synapse with a proxy for Twisted's reactor: the real one must be created after the fork."""
    module = "synapse.app.complement_fork_proxied_reactor"
    if importlib.util.find_spec(module) is None:
        module = "synapse.app.complement_fork_starter"  # its name in older versions
    reactor = importlib.import_module(module).ProxiedReactor()
    importlib.import_module("twisted.internet.main").installReactor(reactor)
    importlib.import_module("synapse.app.homeserver")
    gc.collect()
    gc.freeze()  # keeps these pages shared with the children
    return reactor


def _become_server(reactor: Any, request: dict[str, Any], parent: int) -> NoReturn:
    """Run the homeserver in the forked child; exits with it."""
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
        sys.argv = request["args"]
        reactor._install_real_reactor(importlib.import_module("twisted.internet.epollreactor").EPollReactor())
        importlib.import_module(sys.argv[0]).main()
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


def _send(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        _send({"exited": pid, "code": os.waitstatus_to_exitcode(status)})


def _serve(reactor: Any) -> None:
    children: set[int] = set()
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    own_pid = os.getpid()
    pending = b""
    _send({"ready": True})
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
                    _become_server(reactor, request, own_pid)
                children.add(pid)
                _send({"started": pid, "id": request["id"]})
            else:
                if request["pid"] in children:
                    os.kill(request["pid"], request["number"])
                _send({"signalled": request["pid"], "id": request["id"]})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Import Synapse, then serve requests until stdin is closed."""
    _die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reactor = _preload()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _serve(reactor)


if __name__ == "__main__":
    main()
