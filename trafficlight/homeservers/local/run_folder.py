"""A folder of a lab, for its homeservers or its workers, removed by the next lab if its owner died."""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from trafficlight.processes import try_lock

logger = logging.getLogger(__name__)

_STAGING = ".trafficlight-staging-"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - everything below it is made with mode 0700 under a fresh name
_ENOUGH_BYTES = 512 * 2**20


def default_base() -> Path:
    """Return the fastest place for data: memory if there is enough, else the temporary folder."""
    with contextlib.suppress(OSError):
        space = os.statvfs(_SHARED_MEMORY)
        if space.f_bavail * space.f_frsize >= _ENOUGH_BYTES and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


class RunFolder:
    """A folder that is named after its owner's pid and locked while the owner lives.

    The lock, not the pid, shows whether the owner lives: pids are reused, and differ between containers.

    :param prefix: what the names of all folders of this kind begin with.
    """

    def __init__(self, base: Path | None = None, prefix: str = "trafficlight-servers-") -> None:
        self._base, self._prefix = base or default_base(), prefix
        self._lock: int | None = None
        self._servers = 0
        self.path = self._base / f"{prefix}{os.getpid()}-{secrets.token_hex(3)}"

    def open(self) -> None:
        """Remove the folders of dead owners and create this one. Blocks."""
        self.reclaim()
        self._base.mkdir(parents=True, exist_ok=True)
        staging = self._base / f"{_STAGING}{secrets.token_hex(6)}"
        staging.mkdir(mode=0o700)
        self._lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        staging.rename(self.path)  # it never exists unlocked under its final name

    def new(self, label: str) -> Path:
        """Create a folder for one homeserver. Blocks."""
        self._servers += 1
        folder = self.path / f"{self._servers:04d}-{label}"
        folder.mkdir(mode=0o700)
        return folder

    def close(self) -> None:
        """Remove the folder with its contents. Blocks; idempotent."""
        if self._lock is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def reclaim(self) -> list[Path]:
        """Remove the folders of dead owners and return them. Blocks."""
        removed = []
        for folder in sorted(self._base.glob(f"{self._prefix}*")):
            with contextlib.suppress(OSError):  # it is another user's, or was just removed by another lab
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if try_lock(lock):
                        shutil.rmtree(folder, ignore_errors=True)
                        removed.append(folder)
                finally:
                    os.close(lock)
        for folder in removed:
            logger.info("removed %s, left behind by a lab that was killed", folder)
        return removed
