"""What a process holds that ought to be given back: tasks, processes, sockets and other files."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Held", "held", "tasks"]


@dataclass(frozen=True)
class Held:
    """What this process holds: the processes that it started, and its open files.

    :param processes: pids.
    :param files: number and target of every file descriptor.
    """

    processes: frozenset[int]
    files: frozenset[str]

    def more_than(self, before: "Held") -> list[str]:
        """Return what has come since, in words."""
        found = [f"process {pid}: {_command(pid)}" for pid in self.processes - before.processes]
        return found + [f"file {file}" for file in self.files - before.files]


def held() -> Held:
    """Return what this process holds now."""
    files: set[str] = set()
    processes: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            files.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # it was the one of listing them
            continue
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            processes.update(int(pid) for pid in children.read_text().split())
        except OSError:  # the thread has ended
            continue
    return Held(frozenset(processes), frozenset(files))


def tasks() -> frozenset[str]:
    """Return what else runs in this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return frozenset(f"task {task.get_name()}: {task.get_coro()}" for task in others)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "gone"
