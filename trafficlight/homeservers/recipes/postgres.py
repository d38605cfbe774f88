"""PostgreSQL as this machine has it: a cluster for each homeserver, copied from a template."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from trafficlight.errors import DeployError
from trafficlight.homeservers.probe import wait_for_socket
from trafficlight.homeservers.recipes.recipe import Command
from trafficlight.processes import child_environment, run_to_completion, run_tool, start_process

_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/opt/postgresql@*/bin")
_NOBODY = 65534
_READY_SECONDS = 60
# Nothing in it outlives its case, so nothing waits for a disk.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
}


def program(name: str) -> str | None:
    """Return a program of PostgreSQL, which Debian keeps off the PATH; None without one. Blocks."""
    found = [path for folder in _FOLDERS for path in Path("/").glob(f"{folder[1:]}/{name}")]
    newest = max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))], default=None)
    return shutil.which(name) or (str(newest) if newest is not None else None)


def missing() -> str | None:
    """Return what is missing, and the command that brings it; None if nothing is. Blocks."""
    if program("initdb") is None or program("postgres") is None:
        return "needs PostgreSQL: apt-get install postgresql, or your system's package"
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        return "needs setpriv, because PostgreSQL refuses to run as root: apt-get install util-linux"
    return None


def major() -> str:
    """Return the major version, on which the format of a cluster depends; empty without one. Blocks."""
    if (server := program("postgres")) is None:
        return ""
    shown = subprocess.run([server, "--version"], capture_output=True, check=True, text=True).stdout
    return next(iter(re.findall(r"\d+", shown)), "")


def service(cluster: Path) -> Command:
    """Return the command that serves a cluster on a socket in its folder, without a password."""
    settings = {**_SETTINGS, "unix_socket_directories": str(cluster)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    argv = (*_unprivileged(), program("postgres") or "postgres", "-D", str(cluster), *options)
    # SIGQUIT is its immediate shutdown; killed, it would leave shared memory behind.
    return Command(argv, name="postgres", ready=partial(_wait_until_ready, cluster), end=signal.SIGQUIT)


def copy(template: Path, cluster: Path) -> None:
    """Copy a cluster into the folder of a homeserver. Blocks."""
    if os.getuid() == 0:  # PostgreSQL, which is another user there, must find its own files and no others
        for folder in (cluster.parent.parent, cluster.parent):
            folder.chmod(0o711)
        for file in cluster.parent.iterdir():
            file.chmod(0o600)
    _copy(template, cluster)


async def create(template: Path, fill: Callable[[Path], Awaitable[object]]) -> None:
    """Create a cluster.

    :param fill: called with the folder of the running cluster, to write into its database ``postgres``.
    :raises DeployError: that fails, or PostgreSQL does.
    """
    work = await asyncio.to_thread(_new_folder)
    cluster = work / "cluster"
    try:
        executable = await asyncio.to_thread(program, "initdb")
        initdb = [executable or "initdb", "-D", str(cluster), "-U", "synapse", "--auth=trust"]
        options = ["--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"]
        await run_tool("initdb", [*_unprivileged(), *initdb, *options], directory=cluster)
        command = await asyncio.to_thread(service, cluster)
        process = await start_process(
            command.argv, environment=child_environment(), directory=cluster, log=work / "log"
        )
        try:
            assert command.ready is not None
            await command.ready(_READY_SECONDS)
            await fill(cluster)
        except DeployError as error:
            error.log = error.log or await asyncio.to_thread((work / "log").read_text, errors="replace")
            raise
        finally:
            process.signal(signal.SIGINT)
            await run_to_completion(process.wait())
        await asyncio.to_thread(_copy, cluster, template)
    finally:
        await run_to_completion(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))


async def _wait_until_ready(cluster: Path, timeout: float) -> None:
    """Wait until PostgreSQL refuses no connections any more: it accepts them, to do so, from its start."""
    await wait_for_socket(cluster / ".s.PGSQL.5432", timeout)
    status = cluster / "postmaster.pid"
    try:
        async with asyncio.timeout(timeout):
            while not (await asyncio.to_thread(status.read_text)).rstrip().endswith("ready"):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DeployError(f"PostgreSQL was not ready within {timeout:g} s") from None


def _new_folder() -> Path:
    work = Path(tempfile.mkdtemp(prefix="trafficlight-postgres-"))
    cluster = work / "cluster"
    cluster.mkdir(mode=0o700)
    if os.getuid() == 0:
        work.chmod(0o711)
        os.chown(cluster, _NOBODY, _NOBODY)
    return work


def _unprivileged() -> tuple[str, ...]:
    """Return the words before a command that may not run as root; the kernel still kills it with the lab."""
    if os.getuid() != 0:
        return ()
    ids = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    return ("setpriv", *ids, "--pdeathsig=KILL", "--")


def _copy(source: Path, target: Path) -> None:
    # Not shutil: owners are kept.
    copied = subprocess.run(["cp", "-a", str(source), str(target)], capture_output=True, text=True)
    if copied.returncode:
        raise DeployError(f"the database of a homeserver cannot be copied: {copied.stderr.strip()}")
