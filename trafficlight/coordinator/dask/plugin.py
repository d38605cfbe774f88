"""What is on each Dask worker: the host, and the function that runs one case. Imports `distributed`."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker
from distributed.worker import Worker

from trafficlight.coordinator.dask.host import Ended, Host, Message, Setup
from trafficlight.suites.model import Case

RESOURCE = "trafficlight"
"""The Dask resource of which each case takes one. A worker without it gets as many as it has threads."""


class HostPlugin(WorkerPlugin):  # type: ignore[misc]
    """Makes a Dask worker run cases of a session: its host starts with the first of them.

    :param name: the plugin's, and the topic of its messages.
    """

    def __init__(self, name: str, setup: Setup) -> None:
        self.name, self._setup, self._versions = name, setup, versions_here()()
        self._host: Host | None = None
        #: Whether the host ends without waiting for the last uploads of its adapters.
        self.at_once = False
        self._hosts = 0
        self._lock: Any = None

    async def setup(self, worker: Worker) -> None:
        """Say that the worker takes cases, and how many at once."""
        self._worker, self._lock = worker, threading.Lock()
        here = await asyncio.to_thread(versions_here())
        if why := difference(worker.address, here, self._versions):
            await worker.set_resources(**{RESOURCE: 0})
            self.send({"refused": why})
            return
        resources = worker.state.total_resources
        if RESOURCE not in resources:
            await worker.set_resources(**{RESOURCE: worker.state.nthreads})
        threads = worker.state.nthreads
        slots = int(min(resources[RESOURCE], threads))
        self.send({"slots": slots, "threads": threads, "time": time.time()})

    async def teardown(self, worker: Worker) -> None:
        """End the host; at once if the worker ends."""
        ends = worker.status.name != "running"
        if self._host is not None:
            await asyncio.to_thread(self._host.close, at_once=self.at_once or ends)
        if not ends:
            self.send({"closed": True})

    def host(self) -> Host:
        """Return the host, to which a case is announced then."""
        with self._lock:
            if self._host is None or not self._host.announce():
                self._hosts += 1
                folder = Path(self._worker.local_directory, f"{self.name}-{self._hosts}")
                self._host = Host(self._setup, folder, self.send)
                self._host.announce()
            return self._host

    def cancel(self, case: str, reason: str) -> None:
        """Cancel a running case."""
        if self._host is not None:
            self._host.cancel(case, reason)

    def send(self, message: Message) -> None:
        """Send a message to the coordinator. In any thread."""
        origin = {"from": self._worker.address, "machine": socket.gethostname()}
        self._worker.log_event(self.name, origin | message)


def run_case(plugin: str, case: Case, attempt: int) -> Ended:
    """Run an attempt of a case on this Dask worker: the task. Blocks.

    :param plugin: the name of the plugin.
    """
    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    found: HostPlugin = worker.plugins[plugin]
    found.send({"runs": key})
    return found.host().run(case, attempt, cancelled)


def end_at_once(plugin: str, dask_worker: Worker) -> None:
    """Let the host of a Dask worker not wait for the last uploads when it ends."""
    if (found := dask_worker.plugins.get(plugin)) is not None:
        found.at_once = True


def cancel_case(plugin: str, case: str, reason: str, dask_worker: Worker) -> None:
    """Cancel a case on a Dask worker."""
    if (found := dask_worker.plugins.get(plugin)) is not None:
        found.cancel(case, reason)


def difference(worker: str, versions: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Return which version of a worker is another one than at the coordinator; empty if none is."""
    for name, version in wanted.items():
        if (found := versions.get(name)) != version:
            return (
                f"the Dask worker {worker} has {name} {found}, the coordinator has {version}:"
                " install the same versions everywhere"
            )
    return ""


def versions_here() -> Callable[[], dict[str, str]]:
    """Return a function that returns the versions which must be the same on all machines.

    Dask sends functions inside of others by their code: a machine may have no trafficlight, or another one.
    """

    def versions() -> dict[str, str]:
        import hashlib
        import platform
        from importlib import metadata, util
        from pathlib import Path

        found = {"Python": platform.python_version().rpartition(".")[0]}
        for name in ("matrix-trafficlight", "distributed"):
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "none"
        # A checkout has the version of its next release until that is made.
        package, code = util.find_spec("trafficlight"), hashlib.sha256()
        for file in sorted(Path(package.origin).parent.rglob("*")) if package and package.origin else ():
            if file.is_file() and file.parent.name != "__pycache__":
                code.update(file.read_bytes())
        found["code of trafficlight"] = code.hexdigest()[:12]
        return found

    return versions
