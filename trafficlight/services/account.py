"""The account of a test on a node: runs commands, copies files, follows logs."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, TypeAlias

from trafficlight.clock import cancel_all
from trafficlight.processes import describe_exit, run_to_completion
from trafficlight.services.connections import (
    Command,
    Connection,
    NodeAddress,
    NodeError,
    connect,
    script_of,
)
from trafficlight.services.streams import (
    CHUNK,
    LIMIT,
    LINES,
    CommandError,
    Monitor,
    TooMuchError,
    cut,
    keep_last,
    last_lines,
    lines_of,
    piped,
    read_all,
    read_between,
    write_all,
)

Raw: TypeAlias = bytes | bytearray

# Unpacks without the owners of the node.
_UNTAR = ("tar", "--no-same-owner", "--no-same-permissions", "-xf", "-", "-C")
# Seconds that a process has after SIGTERM, and that closing may take.
_STOP = 10.0
# Bytes of an input that goes into the script: a channel for it would take longer.
_SMALL = 16 << 10
MARK = "TRAFFICLIGHT_NODE"
"""A variable of everything that a case starts on a node: by it, what is left is found."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended.

    :param code: its exit code; negative for a signal.
    """

    stdout: str
    stderr: str
    code: int


@dataclass(slots=True, eq=False)
class _Background:
    """A process that was started in the background.

    :ivar ended: its exit code, or why that is not known.
    :ivar expected: whether its end is no surprise: the test stopped it, or waits for it.
    """

    command: Command
    log: str
    ended: "asyncio.Future[int]"
    expected: bool = False


class Account:
    """What a test does on a node. Everything lies in a folder that is removed after the case.

    :ivar ends: whether background processes may end by themselves with exit code 0. Any other end that the
        test neither caused nor waits for makes the case an error at once.
    :ivar env: variables of what it runs and starts from now on.
    :param folder: that folder; relative paths are below it. It is made by the first command.
    :param mark: unique to the case; empty for an account that only looks at what is there.
    :param on_end: called with a sentence when a background process ends that nothing waits for.
    """

    def __init__(
        self, address: NodeAddress, folder: str, mark: str, on_end: Callable[[str], None] | None = None
    ) -> None:
        self.folder, self.ends = folder, True
        self.env: Mapping[str, str] = {}
        self._address, self._mark = address, mark
        self._connection: Connection = connect(address)
        self._idle: list[Command] = []
        self._background: dict[str, _Background] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._on_end = on_end or (lambda _: None)

    def __repr__(self) -> str:
        return f"Account({self._address.name})"

    def path(self, path: str | PurePosixPath) -> str:
        """Return an absolute path on the node."""
        return str(PurePosixPath(self.folder) / path)

    # Commands

    async def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60.0,
        check: bool = True,
        input: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        secrets: Sequence[str] = (),
    ) -> Completed:
        """Run a command until it exits.

        :param command: a list of words, which are quoted, or a script of the POSIX shell.
        :param timeout: seconds; then it is killed.
        :param check: whether an exit code other than 0 is an error.
        :param input: its standard input; empty by default.
        :param env: variables to set.
        :param cwd: its working directory; by default the case's folder on the node.
        :param secrets: texts that no error shows.
        :raises CommandError: it failed, timed out, or printed more than 16 MiB.
        :raises NodeError: the node does not answer.
        """
        words = command if isinstance(command, str) else [_masked(word, secrets) for word in command]
        shown = _masked(script_of(words), secrets)
        script = self._with(script_of(command), {**self.env, **(env or {})}, cwd)
        out, err, code = bytearray(), bytearray(), -1
        try:
            async with asyncio.timeout(timeout):
                raw = input.encode() if isinstance(input, str) else input
                if len(raw) > _SMALL or b"\0" in raw:
                    code = await self._run_alone(script, raw, out, err)
                else:
                    code = await self._run_in_shell(script, raw, out, err)
        except TimeoutError:
            problem = f"did not end within {timeout:g} s"
            raise self._failed(shown, problem, out, err, secrets, code) from None
        except TooMuchError:
            problem = f"printed more than {LIMIT >> 20} MiB; write it to a file, or read it with lines()"
            raise self._failed(shown, problem, out[:CHUNK], err[:CHUNK], secrets, code) from None
        if check and code != 0:
            raise self._failed(shown, describe_exit(code), out, err, secrets, code)
        return Completed(out.decode(errors="replace"), err.decode(errors="replace"), code)

    async def _run_alone(self, script: str, content: bytes, out: bytearray, err: bytearray) -> int:
        """Run a script in a channel of its own, with an input."""
        async with self._opened(script) as process:
            await asyncio.gather(
                write_all(process, content), read_all(process.stdout, out), read_all(process.stderr, err)
            )
            return await process.wait()

    async def _run_in_shell(self, script: str, content: bytes, out: bytearray, err: bytearray) -> int:
        """Run a script in a shell that is there already: a channel for each would take ten times as long."""
        # What comes before the first mark is of a command before this one, or of the user's shell.
        begin, end = token_hex(16), token_hex(16)
        command = f"/bin/sh -c {script_of([script])}"
        if content:
            text = content.decode(errors="surrogateescape")
            command = f"printf %s {script_of([text])} | {command}"
        else:
            command += " < /dev/null"
        line = f"printf {begin}; printf {begin} >&2; {command}; "
        line += f"printf '{end}%s\\n' $?; printf '{end}0\\n' >&2\n"
        shell = await self._shell(line.encode(errors="surrogateescape"))
        try:
            ends = await asyncio.gather(
                read_between(begin, end, shell.stdout, out), read_between(begin, end, shell.stderr, err)
            )
            if None in ends:
                await shell.wait()
                raise NodeError(f"node {self._address.name}: the connection was lost")
        except BaseException:
            for stream in (out, err):
                before, mark, _ = stream.partition(begin.encode())
                del stream[: len(before) + len(mark) if mark else 0]
            await run_to_completion(shell.kill())
            raise
        self._idle.append(shell)
        return int(ends[0] or 0)

    async def _shell(self, line: bytes) -> Command:
        """Send a line to a shell that waits for one, or to a new one, and return it."""
        while True:
            waiting = self._idle.pop() if self._idle else None
            shell = waiting or await self._connection.open(self._script("exec /bin/sh -s"))
            try:
                shell.stdin.write(line)
            except OSError:
                await run_to_completion(shell.kill())
                if waiting is None:
                    raise NodeError(f"node {self._address.name}: the connection was lost") from None
            else:
                return shell

    def _failed(
        self,
        shown: str,
        problem: str,
        out: Raw,
        err: Raw,
        secrets: Sequence[str],
        code: int,
    ) -> CommandError:
        message = f"node {self._address.name}: {cut(shown)}: {problem}"
        for name, raw in (("stderr", err), ("stdout", out)):
            if text := last_lines(_masked(raw.decode(errors="replace"), secrets)):
                message += f"\n{name}:\n{text}"
        return CommandError(message, code)

    @asynccontextmanager
    async def _opened(
        self, command: str | Sequence[str], env: Mapping[str, str] | None = None, cwd: str = ""
    ) -> AsyncIterator[Command]:
        """Start a command; whatever is left of it at the end of the block is killed."""
        process = await self._connection.open(self._script(script_of(command), env, cwd))
        try:
            yield process
        finally:
            await run_to_completion(process.kill())

    def _script(self, script: str, env: Mapping[str, str] | None = None, cwd: str = "") -> str:
        where = script_of([self.folder])
        if not self._mark:
            return f"cd {where} 2>/dev/null || cd /\n{script}"
        here = f"cd {where} 2>/dev/null || {{ mkdir -p {where} && cd {where}; }} || exit 126"
        return f"{here}\nexport {MARK}={script_of([self._mark])}\n{self._with(script, env, cwd)}"

    @staticmethod
    def _with(script: str, env: Mapping[str, str] | None, cwd: str) -> str:
        """Return a script with a working directory and variables of its own."""
        exports = " ".join(f"{name}={script_of([str(value)])}" for name, value in (env or {}).items())
        before = [f"cd {script_of([cwd])}"] if cwd else []
        before += [f"export {exports}"] if exports else []
        return f"{' && '.join(before)} || exit 126\n{script}" if before else script

    async def lines(
        self, command: str | Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[str]:
        """Run a command and yield the lines that it prints, without line ends.

        :raises CommandError: it failed.
        """
        async with self._opened(command, {**self.env, **(env or {})}) as process:
            errors: deque[str] = deque(maxlen=LINES)
            reading = asyncio.ensure_future(keep_last(process.stderr, errors))
            try:
                process.stdin.write_eof()
                async for line in lines_of(process.stdout):
                    yield line
                code = await process.wait()
                await reading
            finally:
                reading.cancel()
        if code != 0:
            end = "\n".join(errors).encode()
            raise self._failed(script_of(command), describe_exit(code), b"", end, (), code)

    # Background processes

    async def start(
        self,
        command: str | Sequence[str],
        *,
        name: str,
        log: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
    ) -> None:
        """Start a process in the background; it ends with the case.

        :param name: what it is called in :meth:`wait`, :meth:`signal` and messages.
        :param log: the file for its output; by default its name and ``.log``.
        :raises ValueError: a process of that name runs.
        :raises NodeError: the node does not answer.
        """
        if not re.fullmatch(r"[\w.-]+", name) or self.alive(name):
            problem = "runs already" if self.alive(name) else "may contain letters, digits and . _ - only"
            raise ValueError(f"node {self._address.name}: the process {name!r} {problem}")
        output = self.path(log or f"{name}.log")
        parent = PurePosixPath(output).parent
        prepared = "" if str(parent) == self.folder else f"mkdir -p {script_of([str(parent)])}\n"
        streams = f">> {script_of([output])} 2>&1 < /dev/null"
        script = f"{prepared}exec /bin/sh -c {script_of([_run(command)])} {streams}"
        process = await self._connection.open(self._script(script, {**self.env, **(env or {})}, cwd))
        with contextlib.suppress(OSError):  # the connection was lost, which its end says
            process.stdin.write_eof()
        ended = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda future: future.cancelled() or future.exception())
        one = self._background[name] = _Background(process, output, ended)
        task = asyncio.create_task(self._watch(name, one), name=f"{self._address.name}: {name}")
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _watch(self, name: str, one: _Background) -> None:
        """Wait for the end of a background process; report one that nothing waits for."""
        try:
            code = await one.command.wait()
        except NodeError as error:
            one.ended.set_exception(error)
            if not one.expected:
                self._on_end(f"{error}, while {name} ran")
            return
        if one.expected or (self.ends and code == 0):
            one.ended.set_result(code)
            return
        try:
            message = await self._end_of(name, one, code)
            if not one.expected:
                self._on_end(message)
        finally:
            one.ended.set_result(code)

    async def _end_of(self, name: str, one: _Background, code: int) -> str:
        try:
            # Only what kept it from being started is not in its log.
            error = (await one.command.stderr.read(CHUNK)).decode(errors="replace")
            tail = await self.run(["tail", "-n", str(LINES), one.log], check=False)
            end = last_lines(error) or last_lines(tail.stdout) or "(nothing)"
        except (NodeError, CommandError) as error:
            end = f"(it cannot be read: {last_lines(str(error))})"
        return f"node {self._address.name}: {name} ended ({describe_exit(code)}); the end of its log:\n{end}"

    def alive(self, name: str) -> bool:
        """Return whether a background process runs."""
        one = self._background.get(name)
        return one is not None and not one.ended.done()

    @property
    def running(self) -> list[str]:
        """The names of the background processes that run."""
        return [name for name in self._background if self.alive(name)]

    def pid(self, name: str) -> int:
        """Return the process id of a background process on the node."""
        return self._known(name).command.pid

    def _known(self, name: str) -> _Background:
        if name not in self._background:
            started = ", ".join(self._background) or "none"
            raise ValueError(
                f"node {self._address.name}: no process {name!r} was started; started: {started}"
            )
        return self._background[name]

    async def wait(self, name: str, timeout: float | None = None) -> None:
        """Wait until a background process has ended with exit code 0.

        :param timeout: seconds; None for as long as the case may take.
        :raises CommandError: it ended with another code, or did not end in time.
        :raises NodeError: the connection to the node was lost.
        """
        one = self._known(name)
        before, one.expected = one.expected, True
        try:
            async with asyncio.timeout(timeout):
                code = await asyncio.shield(one.ended)
        except TimeoutError:
            raise CommandError(
                f"node {self._address.name}: {name} did not end within {timeout:g} s", -1
            ) from None
        finally:
            if not one.ended.done():
                one.expected = before
        if code != 0:
            raise CommandError(await self._end_of(name, one, code), code)

    async def signal(self, name: str, signal: str = "TERM") -> None:
        """Send a signal to the process group of a background process; its end is expected from then on.

        :param signal: its name, with or without SIG. STOP and CONT pause and resume it.
        """
        one, number = self._known(name), signal.upper().removeprefix("SIG")
        if number not in ("STOP", "CONT", "HUP", "USR1", "USR2"):
            one.expected = True
        if not one.ended.done():
            await self.run(f"kill -s {number} -- -{one.command.pid}", check=False)

    async def stop(self, name: str, timeout: float = _STOP) -> None:
        """End a background process: SIGTERM, and SIGKILL after `timeout` seconds. Idempotent."""
        one = self._known(name)
        pid, one.expected = one.command.pid, True
        if one.ended.done():
            return
        # A paused one gets the first when it continues.
        await self.run(f"kill -s TERM -- -{pid}; kill -s CONT -- -{pid}", check=False)
        done, _ = await asyncio.wait([one.ended], timeout=timeout)
        if not done:
            await self.kill(name)

    async def kill(self, name: str) -> None:
        """Kill (SIGKILL) a background process, and wait until it has ended.

        :raises CommandError: it runs on.
        """
        await self.signal(name, "KILL")
        done, _ = await asyncio.wait([self._known(name).ended], timeout=_STOP)
        if not done:
            raise CommandError(f"node {self._address.name}: {name} runs on after SIGKILL", -1)

    async def stop_all(self, timeout: float = _STOP) -> None:
        """End all background processes of this account."""
        stopped = (self.stop(name, timeout) for name in self._background)
        for error in await asyncio.gather(*stopped, return_exceptions=True):
            if error is not None:
                raise error

    # Files

    async def create_file(self, path: str, content: str | bytes, *, mode: str = "644") -> None:
        """Write a file; its folder is made if need be."""
        where = script_of([path])
        parent = script_of([str(PurePosixPath(path).parent)])
        write = f"(umask 077; cat > {where}) && chmod {mode} {where}"
        raw = content.encode() if isinstance(content, str) else content
        if raw:
            await self.run(f"mkdir -p {parent} && {write}", input=raw)
        else:
            await self.run(f"mkdir -p {parent} && : > {where} && chmod {mode} {where}")

    async def create_from_template(self, path: str, template: str, **values: Any) -> None:
        """Write a file from a Jinja template; a value that is missing is an error."""
        from jinja2 import Environment, StrictUndefined

        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - no HTML
        await self.create_file(path, environment.from_string(template).render(**values))

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[Any]:
        """Open a file of any size for reading: an object with `read(bytes)` and `readline()`."""
        async with self._opened(["cat", path]) as process:
            yield process.stdout

    async def read(self, path: str) -> str:
        """Return the content of a text file of at most 16 MiB."""
        return (await self.run(["cat", path])).stdout

    async def last_line(self, path: str) -> str:
        """Return the last line of a text file."""
        return (await self.run(["tail", "-n", "1", path])).stdout.rstrip("\n")

    async def exists(self, path: str) -> bool:
        """Return whether a file or folder exists."""
        return (await self.run(["test", "-e", path], check=False)).code == 0

    async def mkdir(self, path: str) -> None:
        """Make a folder and those above it."""
        await self.run(["mkdir", "-p", path])

    async def remove(self, path: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens if there is none.

        :raises ValueError: it is the root folder or one directly in it.
        """
        if len(PurePosixPath(self.path(path)).parts) < 3 or ".." in PurePosixPath(path).parts:
            raise ValueError(f"will not remove {path!r}")
        await self.run(["rm", "-rf", "--", path])

    async def copy_to(self, source: Path | str, target: str) -> None:
        """Copy a file or a folder of this machine to the node, as one stream.

        :param target: what it is called there, which must not be a folder; the folder above it is made.
        :raises CommandError: there is a folder of that name, or copying failed.
        """
        source = await asyncio.to_thread(Path(source).absolute)
        tar = ["tar", "-C", str(source.parent), "-cf", "-", "--", source.name]
        parent, where = script_of([str(PurePosixPath(target).parent)]), script_of([target])
        part = f".copying-{token_hex(4)}"
        check = f"[ ! -d {where} ] || {{ echo {script_of([f'{target} is a folder'])} >&2; exit 1; }}"
        unpack = f"mkdir -p {part} {parent} && tar -xf - -C {part}"
        move = f"mv {part}/{script_of([source.name])} {where} && rmdir {part}"
        async with self._opened(f"{check}\n{unpack} && {move}") as process:
            await piped(self._address.name, tar, None, process)

    async def copy_from(self, source: str, target: Path | str) -> None:
        """Copy a file or a folder of the node to this machine, as one stream.

        :param target: the folder for it, which is made if need be.
        """
        path = PurePosixPath(self.path(source))
        tar = f"tar -C {script_of([str(path.parent)])} -cf - -- {script_of([path.name])}"
        await self.receive(tar, Path(target))

    async def receive(self, script: str, target: Path) -> None:
        """Unpack what a script on the node writes with tar."""
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        async with self._opened(script) as process:
            process.stdin.write_eof()
            await piped(self._address.name, [*_UNTAR, str(target)], process.stdout, process)

    # Logs

    @asynccontextmanager
    async def monitor_log(self, path: str) -> AsyncIterator["Monitor"]:
        """Follow a log from its present end; it need not exist yet, and may be rotated."""
        where = script_of([path])
        size = (await self.run(f"if [ -f {where} ]; then wc -c < {where}; else echo 0; fi")).stdout.strip()
        async with self._opened(f"exec tail -c +{int(size) + 1} -F {where} 2>/dev/null") as process:
            process.stdin.write_eof()
            yield Monitor(self._address.name, path, process)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        for one in self._background.values():
            one.expected = True
        await cancel_all(*self._watching)
        with contextlib.suppress(TimeoutError):  # what it does not reach, the node's guard ends
            async with asyncio.timeout(_STOP):
                await asyncio.gather(*(one.command.kill() for one in self._background.values()))
        await self._connection.close()
        await asyncio.gather(*(shell.kill() for shell in self._idle))


def _run(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else f"exec {script_of(command)}"


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
