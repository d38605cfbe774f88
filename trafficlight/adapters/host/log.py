"""A driver's log: what it writes to its standard error, and prints besides messages."""

import os
import threading
from contextlib import suppress
from pathlib import Path

from trafficlight.processes import shorten_log


class DriverLog:
    """The log's file. All methods may block, and any thread may call them.

    It is opened once: the driver, which can write to the folder, may put something else in its place.

    :param path: where to create it.
    :raises OSError: it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = path.open("xb+", buffering=0)
        self._lock = threading.Lock()

    def path(self) -> Path:
        """Return a path of the open file, to read it from its beginning."""
        self._file.seek(0)  # not every system opens the file again
        return Path(f"/dev/fd/{self._file.fileno()}")

    def size(self) -> int:
        """Return the number of bytes that there are."""
        return os.fstat(self._file.fileno()).st_size

    def write(self, data: bytes) -> None:
        """Append to the log; what a full disk refuses is lost, as the reading of answers must go on."""
        with self._lock, suppress(OSError):
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            shorten_log(self._file)

    def tail(self, length: int) -> str:
        """Return the end of the log as text.

        :param length: bytes.
        """
        with self._lock:
            self._file.seek(max(0, self.size() - length))
            return self._file.read(length).decode(errors="replace")

    def clear(self) -> None:
        """Delete what was written."""
        with self._lock:
            self._file.truncate(0)

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._file.close()
