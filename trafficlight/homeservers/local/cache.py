"""The cache folder: what is slow to build is built once per user, atomically."""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import platformdirs

from trafficlight.errors import ConfigError
from trafficlight.processes import run_to_completion

_RETRY_SECONDS = 0.2


class CacheFolder:
    """Folders that are built on first use and then only read.

    :param root: their parent; by default ``TRAFFICLIGHT_CACHE_FOLDER`` or the user's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or _default_root()

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

    @contextlib.asynccontextmanager
    async def _locked(self, folder: Path) -> AsyncIterator[None]:
        try:
            lock = await asyncio.to_thread(_open_lock, folder.with_name(f".{folder.name}.lock"))
        except OSError as error:
            message = f"{self.root} cannot be written: {error.strerror or error}"
            raise ConfigError(message, key="CACHE_FOLDER") from error
        try:
            while not _try_lock(lock):
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


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
