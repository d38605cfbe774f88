"""Reads the results of a lab, for the tests that kill it or its adapters."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

__all__ = ["MARK", "events_of", "free_port", "marked", "still_running", "verdicts"]

# Environment that marks every process of such a test.
MARK = "CRASH_TEST_RUN"


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def events_of(results: Path) -> list[dict[str, Any]]:
    """Return the events of all sessions; a torn last line does not count."""
    found = []
    for log in results.glob("2*/events.jsonl"):
        for line in log.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def verdicts(events: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield every case with each of its final verdicts."""
    for event in events:
        if event["kind"] == "case_ended" and not event["data"].get("will_retry"):
            yield event["case"], event["data"]["state"]


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes of this test that run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def still_running(mark: str, grace: float = 5.0) -> list[list[str]]:
    """Return the command lines of the processes of this test that do not end within `grace` seconds."""
    deadline = time.monotonic() + grace
    while (left := marked(mark)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    return [process.cmdline() for process in left]
