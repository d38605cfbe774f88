"""An adapter as a driver: actions from standard input, responses to standard output."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from trafficlight.adapters.sdk.adapter import Adapter
from trafficlight.adapters.sdk.loop import body_of
from trafficlight.clock import cancel_all
from trafficlight.protocol import RESET

_LONGEST_LINE = 64 << 20  # bytes


class _Host:
    """The context of an adapter behind a host."""

    def __init__(self) -> None:
        self.uuid = str(uuid4())
        self.action_deadline: float | None = None
        self.storage = Path(os.environ["TRAFFICLIGHT_STORAGE"])
        self._evidence = Path(os.environ["TRAFFICLIGHT_EVIDENCE"])

    async def upload(self, path: Path, name: str | None = None) -> str:
        """Leave a file for the host, which uploads it.

        :raises ValueError: the name leaves the folder of evidence.
        """
        name = name or path.name
        target = self._evidence / name
        if ".." in target.parts:
            raise ValueError(f"{name!r} leaves the folder of evidence")
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.copyfile, path, target)
        return name


async def drive(factory: Callable[[], Adapter]) -> None:
    """Perform the actions that a host asks for, until standard input ends.

    What is printed goes to the log. The process can play one case after another, each with a fresh adapter.

    :param factory: makes an adapter; usually the class itself.
    :raises Exception: what :meth:`Adapter.watch` raised between two actions: the client is lost. The program
        should end with it, which the host reports.
    """
    output = os.dup(1)
    os.dup2(2, 1)
    host = _Host()

    def say(line: dict[str, Any]) -> None:
        os.write(output, json.dumps(line).encode() + b"\n")

    async def opened() -> tuple[Adapter, asyncio.Task[None]]:
        adapter = factory()
        adapter.context = host
        await adapter.open()
        return adapter, asyncio.create_task(adapter.watch(), name="watch over the client")

    adapter, watching = await opened()
    say({**adapter.registration().model_dump(exclude_none=True), "reusable": True})
    lines = asyncio.StreamReader(_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await _next_line(lines, watching):
        message = json.loads(line)
        answer: dict[str, Any] = {"id": message["id"]}
        host.action_deadline = message.get("deadline")
        try:
            if message["action"] == RESET:
                await _close(adapter, watching)
                await asyncio.to_thread(empty_folder, host.storage)
                adapter, watching = await opened()
                answer["response"] = RESET
            else:
                answer["response"] = await adapter.perform(message["action"], message["data"])
        except Exception as error:  # noqa: BLE001 - it is reported
            answer["error"] = body_of(error).model_dump()
        say(answer)
    await _close(adapter, watching)
    if watching.done() and not watching.cancelled() and (lost := watching.exception()) is not None:
        raise lost


async def _next_line(lines: asyncio.StreamReader, watching: "asyncio.Task[None]") -> bytes:
    """Return the next line; nothing at the end, or once the client is lost."""
    reading = asyncio.ensure_future(lines.readline())
    if not watching.done():
        await asyncio.wait([reading, watching], return_when=asyncio.FIRST_COMPLETED)
    if watching.done() and watching.exception() is not None:
        reading.cancel()
        return b""
    return await reading


async def _close(adapter: Adapter, watching: "asyncio.Task[None]") -> None:
    await cancel_all(watching)
    await adapter.close()


def empty_folder(folder: Path) -> None:
    """Delete what is in a folder; a link in its place is removed, and what it points to is kept.

    :raises OSError: something is left.
    """
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
