"""A worker: forks a process for every case, so that nothing of one case is left for the next.

The worker itself runs no code of tests. Its child imports one test file, and that child's children run one
case each. When a process has exited, whatever it started is killed, and the coordinator gets its exit code.

Workers are forked too, by ``python -m trafficlight.worker PARENT_PID``, which has imported this package. A
worker exits when the coordinator closes its socket.
"""

import concurrent.futures.thread  # noqa: F401 - imported by the first thread otherwise, in each case
import faulthandler
import gc
import importlib
import logging
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from trafficlight import forking
from trafficlight.clients.action import actions_of
from trafficlight.clients.catalogue import CLIENTS
from trafficlight.pdeathsig import die_with, prctl
from trafficlight.suites.expansion import expand_case
from trafficlight.worker.messages import EXIT_CODE, LONGEST_REQUEST, case_of, prepare
from trafficlight.worker.process import IMPORTED_NIO, dump_stacks, exit_now, serve

_PR_SET_CHILD_SUBREAPER = 36
# Seconds after which a call that blocks is interrupted: a signal that came right before it is handled then.
_INTERRUPT = 1.0


def _file_of(request: bytes) -> Path | None:
    case = case_of(request)
    return case.path if case is not None else None


class _Worker:
    """This process, or the child that has imported a test file: each forks, and waits for its child."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._child = 0
        # Shared with all processes below: whether one has received a request and not sent its exit code.
        self._received = mmap.mmap(-1, 1)
        self._modules = frozenset(sys.modules)

    def run(self) -> None:
        """Fork a process for each test file until the coordinator closes the socket."""
        self._send(0)
        while request := self._next():
            code = self._fork(partial(self._serve_file, _file_of(request)))
            # Otherwise the child has left its request to one with another file, or was killed between two.
            if self._received[0]:
                self._send(code)

    def on_stacks_wanted(self, number: int, frame: FrameType | None) -> None:
        """Write the stacks of the innermost child to standard error."""
        if self._child:
            os.kill(self._child, number)
        else:
            dump_stacks(number, frame)

    def _next(self) -> bytes:
        """Wait for a request and return it without removing it; empty if the socket is closed."""
        return self._control.recv(LONGEST_REQUEST, socket.MSG_PEEK)

    def _send(self, code: int) -> None:
        self._received[0] = 0
        self._control.send(EXIT_CODE.pack(code))

    def _fork(self, work: Callable[[], None], fd: int | None = None) -> int:
        """Do something in a child; return its exit code when nothing is left of it and what it started.

        :param fd: an open file that only the child keeps.
        """
        known, parent = _children(), os.getpid()
        self._child = os.fork()
        if not self._child:
            _exit_after(work, parent)
        if fd is not None:
            os.close(fd)
        try:
            _, status = os.waitpid(self._child, 0)
        finally:
            self._child = 0
            _end_children(known)
        return os.waitstatus_to_exitcode(status)

    def _serve_file(self, file: Path | None) -> None:
        """Import a test file, and fork a process for each case, until one is of another file."""
        for number in (signal.SIGTERM, signal.SIGALRM):  # those of tests, from here
            signal.signal(number, signal.SIG_DFL)
        _become_subreaper()
        stamps: dict[str, tuple[int, int]] = {}
        while (request := self._next()) and _file_of(request) == file and stamps == _stamps(stamps):
            _, (fd, *_), *_ = socket.recv_fds(self._control, LONGEST_REQUEST, 1)
            self._received[0] = 1
            if not _expanded(request):
                self._serve_case(fd)
                break
            stamps = _stamps(_files(frozenset(sys.modules) - self._modules))
            code = self._fork(partial(self._serve_case, fd), fd)
            self._send(code)
            if code == IMPORTED_NIO:
                importlib.import_module("nio")

    def _serve_case(self, fd: int) -> None:
        self._control.close()
        signal.signal(signal.SIGUSR1, dump_stacks)
        serve(fd)


def _become_subreaper() -> None:
    """Become the parent of all processes whose parent exits below this one."""
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _exit_after(work: Callable[[], None], parent: int) -> NoReturn:
    """Do something, and exit without waiting for threads of tests."""
    code: object = 0
    try:
        die_with(parent)
        work()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:  # noqa: BLE001 - this is the end of the process
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.__stderr__)
        code = 1
    exit_now(code)


def _expanded(request: bytes) -> bool:
    """Import the file of a case, and expand its test; return whether this process can be forked then.

    Otherwise it runs the case itself: a fork has no threads, and an import that failed is reported there.
    """
    pid = os.getpid()
    if (case := case_of(request)) is not None:
        try:
            expand_case(case)
        except BaseException:  # noqa: BLE001 - code of a test file
            return False
        finally:
            if os.getpid() != pid:  # the file has forked, and this is the copy
                os._exit(0)
    gc.freeze()  # collecting must not copy what children share
    return _threads() == 1


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # not on Linux
        return threading.active_count()


def _files(modules: Collection[str]) -> list[str]:
    found = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    return [file for file in found if isinstance(file, str)]


def _stamps(files: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the time and size of files: a file or helper that was edited must be imported again."""
    found = {}
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            found[file] = (0, 0)
        else:
            found[file] = (status.st_mtime_ns, status.st_size)
    return found


def _children() -> set[int]:
    try:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    except OSError:  # not on Linux
        return set()


def _end_children(known: Collection[int] = ()) -> None:
    """Kill all children but the known ones, and theirs, which become children of this process."""
    beyond = set(known)
    while left := _children().difference(beyond):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:  # it has become another user's
                beyond.add(pid)
        for pid in left.difference(beyond):
            os.waitpid(pid, 0)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    """End the children, and exit; an exception that is raised in a hook of `os.fork` would be lost."""
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt this
    _end_children()
    exit_now(0)


def _work(arguments: list[str], files: list[int]) -> None:
    """Serve the coordinator on a socket, in the process that becomes a worker.

    :param arguments: the bytes of data that each process may use; 0 for no limit.
    :param files: the socket.
    """
    worker = _Worker(socket.socket(fileno=files[0]))
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _INTERRUPT, _INTERRUPT)
    # Killed together with the coordinator, it would leave what a test has started in a session of its own.
    die_with(os.getppid(), signal.SIGTERM)
    signal.signal(signal.SIGUSR1, worker.on_stacks_wanted)
    faulthandler.enable(2)
    if memory := int(arguments[0]):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # Everything goes to the log of its case; warnings also to the output of the process.
    logging.basicConfig(level=logging.DEBUG, stream=sys.__stderr__)
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    _become_subreaper()
    try:
        worker.run()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it would interrupt this
        _end_children()


def main(parent: int) -> None:
    """Fork workers for the coordinator until it closes the standard input.

    :param parent: its process id.
    """
    die_with(parent)
    # The coordinator handles an operator's Ctrl-C: it cancels the attempts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    for client in CLIENTS.values():
        for action in actions_of(client).values():
            action.prepare()
    gc.freeze()
    forking.serve(_work, die_with)
