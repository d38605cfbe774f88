"""A homeserver's log, which can move to another file while the homeserver runs."""

import os
import shutil
from pathlib import Path

from trafficlight.text import read_tail

_TAIL_BYTES = 6000


class ServerLog:
    """The log of one homeserver, at a fixed path in its folder.

    A homeserver that is started for a case writes straight into the case's file: the fixed path is a link to
    it. One that was started ahead writes into its own folder first; :meth:`attach` copies that and turns the
    fixed path into a link. If it reopens its log it goes on in the case's file; what it still writes to the
    old file is copied by :meth:`drain`.

    :param path: the fixed path, which is in the homeserver's configuration.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = path.with_name(f"{path.name}.before")
        self._copied_bytes = 0
        self._target: Path | None = None

    def attach(self, target: Path) -> None:
        """Move the log to another file, with what was written so far. Blocks shortly."""
        target.touch()
        self._target = target
        if self.path.exists():
            self._before.unlink(missing_ok=True)
            os.link(self.path, self._before)
            self.drain()
        link = self.path.with_name(f"{self.path.name}.link")
        link.symlink_to(target.absolute())
        link.rename(self.path)  # atomic: the path always exists
        self.drain()

    def drain(self) -> None:
        """Copy what was written to the old file since the last time. Blocks shortly."""
        if self._target is None or not self._before.exists():
            return
        with self._before.open("rb") as source, self._target.open("ab") as sink:
            source.seek(self._copied_bytes)
            shutil.copyfileobj(source, sink)
            self._copied_bytes = source.tell()

    def tail(self) -> str:
        """Return the last lines. Blocks shortly."""
        self.drain()
        text = read_tail(self.path, _TAIL_BYTES)
        if len(text.encode()) >= _TAIL_BYTES:
            text = text.partition("\n")[2]
        return text.strip()
