"""The debugger of `trafficlight run --pdb`, and what quitting a debugger does."""

import asyncio
import bdb
import contextlib
import functools
import pdb
import signal
import sys
from pathlib import Path
from types import TracebackType

import click

from trafficlight.logs import LogContext
from trafficlight.results.events import State
from trafficlight.results.reports.tracebacks import is_own, trimmed_traceback
from trafficlight.worker.assignment import Verdict
from trafficlight.worker.verdicts import decisive

_ASYNCIO = Path(asyncio.__path__[0])


def debug(error: BaseException, verdict: Verdict, *, post_mortem: bool) -> None:
    """Interrupt the session if a debugger was quit.

    :param post_mortem: whether to open a debugger where the test failed.
    """
    cause = decisive(error)
    if not isinstance(cause, bdb.BdbQuit):
        if not post_mortem or verdict.state is State.SKIPPED:
            return
        trace = "\n".join(trimmed_traceback(verdict.traceback)) or verdict.message
        with contextlib.redirect_stdout(sys.__stdout__):  # not into the log of the case
            click.echo(f"\n{verdict.state}  {LogContext.current().case}\n{trace}")
            debugger = pdb.Pdb()
            debugger.reset()
            debugger.interaction(None, _outside(cause.__traceback__))
        if not debugger.quitting:
            return
    signal.raise_signal(signal.SIGINT)


def _outside(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this package and of asyncio at its end."""
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    while len(entries) > 1 and _is_inside(Path(entries[-1].tb_frame.f_code.co_filename)):
        entries.pop()
    return functools.reduce(
        lambda rest, one: TracebackType(rest, one.tb_frame, one.tb_lasti, one.tb_lineno),
        reversed(entries),
        None,
    )


def _is_inside(file: Path) -> bool:
    return is_own(file) or file.is_relative_to(_ASYNCIO)
