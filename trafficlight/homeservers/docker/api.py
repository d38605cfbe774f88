"""The Docker engine's API: its errors, TLS, the labels of what a lab owns, and events of containers."""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import ssl
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.clock import cancel_all
from trafficlight.config import DockerHost
from trafficlight.errors import DeployError

_FILES = "ca.pem, cert.pem and key.pem"


def engine_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of calls that an engine rejects, interrupts or does not answer in time."""
    from aiodocker.exceptions import DockerError  # an extra

    return (DockerError, aiohttp.ClientError, OSError)


def problem(error: BaseException) -> str:
    """Return what went wrong, never empty."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(getattr(error, "message", "")) or str(error) or type(error).__name__


def certificate_folder(host: DockerHost) -> Path | None:
    """Return the folder with the certificates for an engine; None if the connection is without TLS.

    As in the docker command, ``tcp://`` uses TLS with ``DOCKER_TLS_VERIFY``, with certificates from
    ``DOCKER_CERT_PATH``. With certificates of its own it always uses TLS; ``http://`` never does.
    """
    if (scheme := URL(host.url).scheme) not in ("tcp", "https"):
        return None
    if host.certificates is not None:
        return host.certificates
    if scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0"):
        return Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    return None


def tls_context(folder: Path) -> ssl.SSLContext:
    """Return the TLS context for an engine. Blocks shortly.

    :raises DeployError: a certificate is missing or invalid.
    """
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:
        raise DeployError(f"TLS to a Docker engine needs {_FILES} in {folder}: {error}") from error
    return context


def connection_problem(error: BaseException, folder: Path | None) -> str:
    """Return why an engine does not answer, with advice if the reason is TLS.

    :param folder: the folder with the certificates; None without TLS.
    """
    found: BaseException | None = error
    reason = problem(error)
    while found is not None:
        if isinstance(found, aiohttp.ClientConnectorCertificateError):
            return f"its certificate is not trusted, see ca.pem in {folder}: {found.certificate_error}"
        if isinstance(found, ssl.SSLError | aiohttp.ClientSSLError):
            break
        found = found.__cause__ or found.__context__
    if folder is None and "HTTP request to an HTTPS server" in reason:
        return "it requires TLS: name its certificates, or set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
    if found is None or folder is None:
        return reason
    if "alert" in str(found).lower():
        return f"it does not accept our certificate, see cert.pem in {folder}: {found}"
    return f"the TLS connection with {_FILES} in {folder} failed: {found}"


logger = logging.getLogger(__name__)

LABEL = "trafficlight.owner"
_EXPIRES = "trafficlight.expires"
# No case takes longer: what is older belongs to a lab that died, on whichever machine that ran.
_LIFETIME_SECONDS = 6 * 3600


class Owner:
    """This process, as its labels identify it to other labs on the same engine."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.id = f"{_pid_namespace()}/{pid}/{_started(pid)}/{secrets.token_hex(4)}"

    def labels(self, case_id: str, role: str = "") -> dict[str, str]:
        """Return the labels for a container or network that is created now."""
        labels = {
            LABEL: self.id,
            _EXPIRES: str(int(time.time()) + _LIFETIME_SECONDS),
            "trafficlight.case": case_id,
        }
        return labels | ({"trafficlight.role": role} if role else {})


def is_orphan(labels: Mapping[str, str]) -> bool:
    """Return whether the owner of these labels is dead, or they are too old."""
    namespace, _, rest = labels.get(LABEL, "").partition("/")
    pid, _, started = rest.partition("/")
    if namespace == _pid_namespace() and pid.isdecimal():
        return started.partition("/")[0] != _started(int(pid))
    try:
        return time.time() > int(labels[_EXPIRES])
    except (KeyError, ValueError):
        return False  # not a lab's


async def reclaim(docker: Any, url: str, owner: str, wanted: Container[str]) -> None:
    """Remove the containers and networks of dead owners, and this owner's that could not be removed before.

    :param url: the engine's URL, for the log.
    :param owner: this owner's id.
    :param wanted: the ids of this owner's that are in use.
    """
    from aiodocker.exceptions import DockerError

    def left_behind(id: str, labels: dict[str, str]) -> bool:
        return is_orphan(labels) or (labels.get(LABEL) == owner and id not in wanted)

    filters = {"label": [LABEL]}
    for container in await docker.containers.list(all=1, filters=json.dumps(filters)):
        if left_behind(container.id, container["Labels"]):
            logger.info("%s: removing %s, left behind by a lab", url, container["Names"][0])
            with contextlib.suppress(DockerError):  # another lab was faster
                await container.delete(force=True, v=True)
    for network in await docker.networks.list(filters=filters):
        if left_behind(network["Id"], network["Labels"]):
            with contextlib.suppress(DockerError):
                await (await docker.networks.get(network["Id"])).delete()


def _pid_namespace() -> str:
    """Return what identifies a pid namespace: one boot of one machine, and one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{os.uname().nodename}-"  # not Linux: only the age shows whether an owner is dead


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the boot; empty if there is none. Pids are reused."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


_SILENCE_SECONDS = 10  # a machine that is switched off closes no connection
_ANSWER_SECONDS = 15


class ContainerWatch:
    """The exit of one container since its last start."""

    def __init__(self) -> None:
        self.reason: str | None = None
        #: When it exited, in the API's format by the engine's clock: where the log of its next start begins.
        self.ended_at: str | None = None
        self._ended = asyncio.Event()
        self._out_of_memory = False

    def begin(self) -> None:
        """Reset it before the container is started."""
        self.reason = None
        self._out_of_memory = False
        self._ended.clear()

    async def ended(self) -> str:
        """Wait for the exit and return its description."""
        await self._ended.wait()
        return self.reason or "exited"

    def mark_lost(self, why: str) -> None:
        """Treat it as exited, unless it has."""
        if self.reason is None:
            self.reason = why
            self._ended.set()

    def take(self, event: dict[str, Any]) -> None:
        """Process one event of the engine."""
        match str(event.get("Action", "")):
            case "oom":
                self._out_of_memory = True
            case "die":
                code = event.get("Actor", {}).get("Attributes", {}).get("exitCode", "?")
                self.reason = f"exit code {code}" + (", out of memory" if self._out_of_memory else "")
                self.ended_at = _api_time(int(event.get("timeNano", 0)))
                self._ended.set()
            case _:
                pass


class EngineWatch:
    """Follows the events of one engine and dispatches them to their containers.

    :param owner: the id of the owner of the containers.
    :param since: where the events begin, in the API's format.
    """

    def __init__(self, docker: Any, owner: str, since: str) -> None:
        self._docker = docker
        self._filters = json.dumps({"label": [f"{LABEL}={owner}"], "type": ["container"]})
        self._since = since
        self._containers: dict[str, ContainerWatch] = {}

    def add(self, container: str) -> ContainerWatch:
        """Watch a container, before it is started."""
        self._containers[container] = watch = ContainerWatch()
        return watch

    def remove(self, container: str) -> None:
        """Stop watching a container."""
        self._containers.pop(container, None)

    def mark_lost(self, why: str) -> None:
        """Treat every container as exited: the engine does not answer any more."""
        for watch in self._containers.values():
            watch.mark_lost(why)

    async def follow(self) -> str:
        """Process events until the stream ends, and return why; the next call resumes from there."""
        subscriber = self._docker.events.subscribe(create_task=False)
        stream = asyncio.create_task(self._docker.events.run(filters=self._filters, since=self._since))
        try:
            while (event := await self._next(subscriber)) is not None:
                self._take(event)
            await stream
        except engine_errors() as error:
            return problem(error)
        except ValueError as error:
            return f"it sent an invalid event: {error}"
        finally:
            await cancel_all(stream)
        return "it ended the stream"

    async def _next(self, subscriber: Any) -> dict[str, Any] | None:
        """Return the next event; after a long silence, check that the engine answers."""
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    event: dict[str, Any] | None = await subscriber.get()
                    return event
            except TimeoutError:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._docker.version()

    def _take(self, event: dict[str, Any]) -> None:
        if "timeNano" in event:
            self._since = _api_time(int(event["timeNano"]) + 1)
        watch = self._containers.get(str(event.get("Actor", {}).get("ID", "")))
        if watch is not None:
            watch.take(event)


def _api_time(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
