"""Uploads that belong to no case: where they are kept, and what they take of the disk."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from trafficlight.results.folder import UNCLAIMED, folder_name, mark


class UnclaimedUploads:
    """The uploads of adapters that had no case.

    :param root: the folder of all results.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / UNCLAIMED
        self._measured = asyncio.Lock()
        self._running = 0
        #: The bytes that all of them take; an upload adds its own when it is complete.
        self.size = 0

    @contextlib.asynccontextmanager
    async def receive(self, uuid: str, least: int) -> AsyncIterator[Path]:
        """Yield the folder for an upload of an adapter, and create it; `size` is right when it begins.

        :param least: the bytes that a file or a folder counts at least.
        """
        async with self._measured:
            # While another upload runs, the disk has files that `size` gets later, or that are discarded.
            if not self._running:
                self.size = await asyncio.to_thread(self._measure, least)
            self._running += 1
        try:
            yield await asyncio.to_thread(self.folder, uuid)
        finally:
            self._running -= 1

    def folder(self, uuid: str) -> Path:
        """Return the folder for the uploads of an adapter; create it."""
        folder = self._folder / folder_name(uuid)
        folder.mkdir(parents=True, exist_ok=True)
        mark(self._folder)
        return folder

    def _measure(self, least: int) -> int:
        folders = [*self._folder.glob("*/")]
        total = least * len(folders)
        for path in itertools.chain(*(folder.glob("*") for folder in folders)):
            with contextlib.suppress(FileNotFoundError):
                total += max(path.lstat().st_size, least)
        return total
