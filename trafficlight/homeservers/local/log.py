"""A homeserver's log that can change the file it goes to while the homeserver runs."""

import os
import shutil
from pathlib import Path

_TAIL_BYTES = 6000


class ServerLog:
    """The log of one homeserver, at a fixed path in its folder.

    A server for a case writes straight into the case's file: the fixed path is a link to it. A server that
    was started ahead writes into its folder at first; :meth:`attach` takes that over and turns the fixed path
    into a link. A homeserver that watches its log file goes on in the case's file; what others write to the
    old one afterwards is taken over by :meth:`drain`.

    :param path: the fixed path that the homeserver is told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = path.with_name(f"{path.name}.before")
        self._taken_bytes = 0
        self._target: Path | None = None

    def attach(self, target: Path) -> None:
        """Let it go to another file from now on, with all that was written so far. Blocks shortly."""
        target.touch()
        self._target = target
        if self.path.exists():
            self._before.unlink(missing_ok=True)
            os.link(self.path, self._before)
            self.drain()
        link = self.path.with_name(f"{self.path.name}.link")
        link.symlink_to(target.absolute())
        link.rename(self.path)  # in one step: the homeserver always finds a file there
        self.drain()

    def drain(self) -> None:
        """Take over what was written into the server's folder since the last time. Blocks shortly."""
        if self._target is None or not self._before.exists():
            return
        with self._before.open("rb") as source, self._target.open("ab") as sink:
            source.seek(self._taken_bytes)
            shutil.copyfileobj(source, sink)
            self._taken_bytes = source.tell()

    def tail(self) -> str:
        """Return the end of it, whole lines. Blocks shortly."""
        self.drain()
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        if size > _TAIL_BYTES:
            text = text.partition("\n")[2]
        return text.strip()
