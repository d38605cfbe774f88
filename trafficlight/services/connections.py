"""How commands reach a node: a process of this machine, or a channel over SSH."""

import asyncio
import contextlib
import functools
import importlib
import os
import secrets
import shlex
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from trafficlight.config import UserPath
from trafficlight.errors import LabError
from trafficlight.processes import child_environment, run_to_completion

# Seconds for connecting, and between two signs of life of an idle connection; three may be missing.
_CONNECT, _KEEPALIVE = 15.0, 5.0
# Seconds for the command that kills another one.
_KILL = 10.0
# Channels of one connection: OpenSSH's MaxSessions is 10.
_CHANNELS = 8
# Bytes of a stream that are kept until someone reads them.
_BUFFER = 1 << 20


class NodeError(LabError):
    """A node cannot be used: it does not answer, refuses the login, or the connection was lost."""


class NodeAddress(BaseModel):
    """Where a node is, and how to log in.

    :ivar name: unique in the cluster.
    :ivar host: the name or address under which other nodes, clients and homeservers reach it.
    :ivar ssh: how to log in over SSH; None for commands of this machine.
    :ivar prefix: what stands before each command; for containers, for instance.
    :ivar labels: what tests ask for with ``@cluster(labels=...)``.
    :ivar os: the operating system, likewise.
    :ivar folder: the folder for everything that a case leaves there.
    :ivar ports: free ports, if the node shares its address with others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    host: str = "127.0.0.1"
    ssh: "Login | None" = None
    prefix: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    os: str = "linux"
    folder: str = "/tmp"  # noqa: S108 - each case makes a folder of its own in it
    ports: tuple[int, ...] = ()


class Login(BaseModel):
    """How to log in over SSH. What is not set comes from the user's ``ssh_config``.

    :ivar host: a host name, an address, or a name of ``ssh_config``; by default the node's `host`.
    :ivar port: of its SSH server.
    :ivar user: the user to log in as.
    :ivar key: the file of a private key.
    :ivar password: instead of a key.
    :ivar known_hosts: the file of host keys; by default the user's.
    :ivar config: an ``ssh_config`` in place of the user's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = ""
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = None
    key: UserPath | None = None
    password: str | None = Field(default=None, repr=False)
    known_hosts: UserPath | None = None
    config: UserPath | None = None


class Command(Protocol):
    """A command that runs on a node.

    :ivar pid: its process id there; it leads a process group.
    """

    pid: int

    @property
    def stdin(self) -> Any:
        """Has `write(bytes)`, `drain()` and `write_eof()`."""
        ...

    @property
    def stdout(self) -> Any:
        """Has `read(bytes)` and `readline()`."""
        ...

    @property
    def stderr(self) -> Any:
        """Likewise."""
        ...

    async def wait(self) -> int:
        """Wait for the exit; return the code, negative for a signal.

        :raises NodeError: the connection was lost.
        """
        ...

    async def kill(self) -> None:
        """Kill its process group, and wait until nothing of it is open. Idempotent."""
        ...


class Connection(Protocol):
    """Runs commands on a node."""

    async def open(self, script: str) -> Command:
        """Start a script of the POSIX shell.

        :raises NodeError: the node cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Close it; commands that still run lose their streams. Idempotent."""
        ...


def connect(address: NodeAddress) -> Connection:
    """Return a connection to a node, which is opened by its first command."""
    return _Remote(address) if address.ssh is not None else _Local(address)


# A script that says where it is: not every server, and no container, kills for us what it runs.
def _with_pid(script: str, token: str) -> str:
    return f"echo {token} $$ >&2\n{script}"


async def number_after(token: str, stream: Any) -> int | None:
    """Read up to a line with a token and a number; None if the stream ends before it."""
    while line := await stream.readline():
        # The user's shell may print whatever it likes before.
        before, _, number = line.decode(errors="replace").rpartition(f"{token} ")
        if number.strip().isdigit() and (before or line.startswith(token.encode())):
            return int(number)
    return None


async def _pid_of(token: str, stderr: Any, name: str) -> int:
    pid = await number_after(token, stderr)
    if pid is None:
        raise NodeError(f"node {name}: the connection was lost")
    return pid


class _LocalCommand:
    def __init__(
        self,
        process: asyncio.subprocess.Process,
        pid: int = 0,
        inside: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._process, self.pid, self._kill_inside = process, pid or process.pid, inside
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr

    async def wait(self) -> int:
        code = await self._process.wait()
        # `docker exec` reports a signal as a shell does.
        return 128 - code if self._kill_inside is not None and 128 < code <= 128 + signal.SIGRTMAX else code

    async def kill(self) -> None:
        if self._process.returncode is None and self._kill_inside is not None:
            await self._kill_inside()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await run_to_completion(self._process.wait())


class _Local:
    """A node that is reached with a program of this machine."""

    def __init__(self, address: NodeAddress) -> None:
        self._address = address

    async def open(self, script: str) -> Command:
        prefix = self._address.prefix
        token = secrets.token_hex(8)
        command = [*prefix, "/bin/sh", "-c", _with_pid(script, token) if prefix else script]
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=child_environment(),
                start_new_session=True,
                limit=_BUFFER,
            )
        except OSError as error:
            raise NodeError(f"node {self._address.name}: cannot start {command[0]}: {error}") from error
        if not prefix:
            return _LocalCommand(process)
        try:
            pid = await _pid_of(token, process.stderr, self._address.name)
        except BaseException:
            await run_to_completion(_LocalCommand(process).kill())
            raise
        return _LocalCommand(process, pid, lambda: _kill(self, pid))

    async def close(self) -> None:
        """Nothing is kept open."""


async def _kill(connection: Connection, pid: int) -> None:
    with contextlib.suppress(NodeError, TimeoutError):
        async with asyncio.timeout(_KILL):
            await (await connection.open(f"kill -s KILL -- -{pid}")).wait()


class _Stream:
    """What a command prints; ends where the connection is lost, which :meth:`Command.wait` reports."""

    def __init__(self, reader: Any, errors: tuple[type[Exception], ...]) -> None:
        self._reader, self.errors = reader, errors

    async def read(self, size: int) -> bytes:
        try:
            return bytes(await self._reader.read(size))
        except self.errors:
            return b""

    async def readline(self) -> bytes:
        try:
            return bytes(await self._reader.readline())
        except self.errors:
            return b""


class _Sink:
    """What a command reads; raises `BrokenPipeError` where the connection is lost."""

    def __init__(self, writer: Any, errors: tuple[type[Exception], ...]) -> None:
        self._writer, self._errors = writer, errors

    def write(self, content: bytes) -> None:
        with self._broken_if_lost():
            self._writer.write(content)

    def write_eof(self) -> None:
        with self._broken_if_lost():
            self._writer.write_eof()

    async def drain(self) -> None:
        with self._broken_if_lost():
            await self._writer.drain()

    @contextlib.contextmanager
    def _broken_if_lost(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise BrokenPipeError from error


class _RemoteCommand:
    def __init__(
        self,
        process: Any,
        streams: tuple[_Stream, _Stream],
        name: str,
        closed: "asyncio.Future[None]",
        pid: int,
        kill: Callable[[], Awaitable[None]],
    ) -> None:
        self._process, self._name, self._closed, self.pid, self._kill = process, name, closed, pid, kill
        self.stdin, (self.stdout, self.stderr) = _Sink(process.stdin, streams[0].errors), streams

    async def wait(self) -> int:
        await asyncio.shield(self._closed)
        if self._process.exit_signal is not None:
            number = getattr(signal, f"SIG{self._process.exit_signal[0]}", signal.SIGKILL)
            return -int(number)
        if self._process.exit_status is None:
            raise NodeError(f"node {self._name}: the connection was lost")
        return int(self._process.exit_status)

    async def kill(self) -> None:
        if not self._closed.done():
            await self._kill()  # OpenSSH ignores signals to commands of root
        self._process.close()
        await asyncio.wait([self._closed])


class _Remote:
    """A node that is reached over SSH; opens a connection for every few commands that run at once."""

    def __init__(self, address: NodeAddress) -> None:
        self._address = address
        self._connections: list[tuple[Any, set[Any]]] = []
        self._connecting = asyncio.Lock()

    async def open(self, script: str) -> Command:
        # In a thread: it reads files, and runs a program to find out where it is.
        try:
            asyncssh: Any = await asyncio.to_thread(importlib.import_module, "asyncssh")
        except ImportError:
            missing = "nodes over SSH need asyncssh: install matrix-trafficlight with the extra ssh"
            raise NodeError(missing) from None
        asyncssh.set_log_level("WARNING")  # each channel has lines of its own
        name, token = self._address.name, secrets.token_hex(8)
        shell = f"exec /bin/sh -c {shlex.quote(_with_pid(script, token))}"
        for _ in range(2):
            connection, channels = await self._free(asyncssh)
            place = object()
            channels.add(place)
            try:
                process = await connection.create_process(shell, encoding=None, window=_BUFFER)
            except (asyncssh.Error, OSError) as error:
                channels.discard(place)
                if connection.is_closed() and (connection, channels) in self._connections:
                    self._connections.remove((connection, channels))
                    continue  # it was closed while idle
                raise NodeError(f"node {name}: {_reason(error)}") from error
            except BaseException:
                channels.discard(place)
                raise
            closed = asyncio.ensure_future(process.wait_closed())
            closed.add_done_callback(lambda _, channels=channels, place=place: channels.discard(place))
            errors = (asyncssh.Error, OSError)
            streams = _Stream(process.stdout, errors), _Stream(process.stderr, errors)
            try:
                pid = await _pid_of(token, streams[1], name)
            except BaseException:
                process.close()
                raise
            return _RemoteCommand(process, streams, name, closed, pid, functools.partial(_kill, self, pid))
        raise NodeError(f"node {name}: the connection was lost")

    async def _free(self, asyncssh: Any) -> tuple[Any, set[Any]]:
        """Return a connection with room for one more channel."""
        async with self._connecting:
            for connection, channels in self._connections:
                if len(channels) < _CHANNELS and not connection.is_closed():
                    return connection, channels
            opened = (await self._connect(asyncssh), set[Any]())
            self._connections.append(opened)
            return opened

    async def _connect(self, asyncssh: Any) -> Any:
        address, login = self._address, self._address.ssh
        assert login is not None
        options: dict[str, Any] = {}
        if login.port is not None:
            options["port"] = login.port
        if login.user is not None:
            options["username"] = login.user
        if login.key is not None:
            options.update(client_keys=[str(login.key)], agent_path=None)
        if login.password is not None:
            options["password"] = login.password
        if login.known_hosts is not None:
            options["known_hosts"] = str(login.known_hosts)
        if login.config is not None:
            options["config"] = [str(login.config)]
        host = login.host or address.host
        try:
            made = await asyncio.to_thread(
                asyncssh.SSHClientConnectionOptions,
                host=host,
                connect_timeout=_CONNECT,
                keepalive_interval=_KEEPALIVE,
                keepalive_count_max=3,
                **options,
            )
            return await asyncssh.connect(host, options=made)
        except (asyncssh.Error, OSError, ValueError) as error:
            raise NodeError(f"node {address.name}: cannot log in to {host}: {_reason(error)}") from error

    async def close(self) -> None:
        connections, self._connections = self._connections, []
        for connection, _ in connections:
            connection.abort()
        for connection, _ in connections:
            await connection.wait_closed()


def _reason(error: BaseException) -> str:
    """Return what asyncssh or the system says, in one line."""
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {_CONNECT:g} s"
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(text.split()) or type(error).__name__


def script_of(command: str | Sequence[str]) -> str:
    """Return a command as a script: a text is one, the words of a list are quoted."""
    return command if isinstance(command, str) else shlex.join(command)
