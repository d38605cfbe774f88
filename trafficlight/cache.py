"""The cache folder: what is slow to build is built once per user, atomically."""

import asyncio
import contextlib
import os
import shutil
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import platformdirs

from trafficlight.errors import ConfigError
from trafficlight.processes import run_to_completion, try_lock

_RETRY_SECONDS = 0.2


class CacheFolder:
    """Folders that are built on first use and then only read.

    :param root: their parent; by default ``TRAFFICLIGHT_CACHE_FOLDER`` or the user's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or _default_root()
        # Locks of the folders that this process uses, which keep others from removing them.
        self._used: dict[str, int] = {}
        weakref.finalize(self, _close, self._used)

    def path(self, name: str) -> Path:
        """Return the path of a folder, which need not exist."""
        return self.root / name

    def missing(self, what: str, cause: str) -> ConfigError:
        """Return the error for something that is not here and cannot be downloaded.

        :param cause: why there is no network.
        """
        return ConfigError(
            f"{what} is not in {self.root}, and there is no network: {cause}", key="CACHE_FOLDER"
        )

    async def ensure(
        self,
        name: str,
        build: Callable[[Path], Awaitable[None]],
        usable: Callable[[Path], bool] = Path.is_dir,
    ) -> Path:
        """Return a folder, and build it if it is missing.

        One process builds while others wait. An interrupted build leaves nothing that is used.

        :param name: its path below the root.
        :param build: fills a new folder, which is then moved to its place.
        :param usable: whether a folder exists and works; otherwise it is built again. May block.
        """
        folder = self.path(name)
        await self._use(name)
        if await asyncio.to_thread(usable, folder):
            return folder
        async with self._locked(folder):
            if await asyncio.to_thread(usable, folder):
                return folder
            staging = folder.with_name(f".{folder.name}.partial")
            try:
                await asyncio.to_thread(_make_empty, staging)
                await build(staging)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                await asyncio.to_thread(staging.rename, folder)
            finally:
                await run_to_completion(asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True))
        return folder

    def names(self, family: str) -> list[str]:
        """Return the names of the folders that are in a folder of the root. Blocks shortly."""
        folder = self.path(family)
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(f"{family}/{path.name}" for path in found if not path.name.startswith("."))

    def size(self, name: str) -> int:
        """Return the bytes that a folder takes. Blocks."""
        folders = os.walk(self.path(name))
        return sum(
            os.lstat(os.path.join(parent, file)).st_size for parent, _, files in folders for file in files
        )

    async def remove(self, name: str) -> bool:
        """Remove a folder, unless a process uses it; return whether it is removed.

        :raises ConfigError: the cache cannot be written.
        """
        folder = self.path(name)
        try:
            lock = await asyncio.to_thread(_open_lock, _use_lock(folder))
        except OSError as error:
            message = f"{self.root} cannot be written: {error.strerror or error}"
            raise ConfigError(message, key="CACHE_FOLDER") from error
        removed = folder.with_name(f".{folder.name}.removed")
        try:
            if not try_lock(lock):
                return False
            await asyncio.to_thread(shutil.rmtree, removed, ignore_errors=True)
            await asyncio.to_thread(folder.rename, removed)
        finally:
            os.close(lock)
        await run_to_completion(asyncio.to_thread(shutil.rmtree, removed, ignore_errors=True))
        return True

    async def _use(self, name: str) -> None:
        if name in self._used:
            return
        try:
            lock = await asyncio.to_thread(_open_lock, _use_lock(self.path(name)))
        except OSError:  # the cache is not writable: what is there can still be used
            return
        try:
            while not try_lock(lock, shared=True):
                await asyncio.sleep(_RETRY_SECONDS)
        except BaseException:
            os.close(lock)
            raise
        if name in self._used:  # by another task meanwhile
            os.close(lock)
        else:
            self._used[name] = lock

    @contextlib.asynccontextmanager
    async def _locked(self, folder: Path) -> AsyncIterator[None]:
        try:
            lock = await asyncio.to_thread(_open_lock, folder.with_name(f".{folder.name}.lock"))
        except OSError as error:
            message = f"{self.root} cannot be written: {error.strerror or error}"
            raise ConfigError(message, key="CACHE_FOLDER") from error
        try:
            while not try_lock(lock):
                await asyncio.sleep(_RETRY_SECONDS)  # a blocking flock in a thread could not be cancelled
            yield
        finally:
            os.close(lock)


def _default_root() -> Path:
    named = os.environ.get("TRAFFICLIGHT_CACHE_FOLDER")
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("trafficlight")


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _open_lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _use_lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.used")


def _close(locks: dict[str, int]) -> None:
    for lock in locks.values():
        os.close(lock)
    locks.clear()
