"""The folder of a session, the folders of its attempts, and names that every file system accepts.

A case's folder depends on its id only. An id of the usual shape is used as it is; in any other, unusual
characters are replaced and a digest of the id is appended after a ``~``, so that no two ids share a folder.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from trafficlight.config import RESULTS_MARKER
from trafficlight.errors import LabError

logger = logging.getLogger(__name__)

PARTIAL = ".part"
"""The end of the name of an upload that is not complete, after a dot and 16 hexadecimal digits."""
UNCLAIMED = "adapters"
"""The folder, beside those of sessions, of what adapters upload while they have no case."""
CURRENT = "current"
LATEST = "latest"

RECORDING = "network.har"
RECORDINGS = f"clients/*/{RECORDING}"
"""The recordings of an attempt, as a pattern below its folder."""
"""The file of a client's traffic, in the folder of its uploads."""

LONGEST = 140
"""Bytes in one name. Most file systems take 255, encrypted home directories 143."""

_DIGEST = 12  # hexadecimal digits
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@-]*")
_USUAL = re.compile(
    r"(?P<file>[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)\.py"
    r"::(?P<test>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)"
    r"(?:\[(?P<cell>[A-Za-z0-9_][A-Za-z0-9_.,=+@-]*)\])?"
)
_ODD = re.compile(r"[^A-Za-z0-9_.,=+@-]+")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|]')
_NO_CELL = "-"  # no cell can be called that: one begins with a letter, a digit or an underscore


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader sees the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def case_path(case_id: str) -> str:
    """Return the path of a case's folder, relative to the folder of its session.

    :param case_id: any text; ids of the usual shape give ``cases/chat.login_test/Login/alice=Nio``.
    """
    # Always four levels, so that no case's folder lies within another's.
    usual = _USUAL.fullmatch(case_id)
    if usual is not None:
        parts = (usual["file"].replace("/", "."), usual["test"], usual["cell"] or _NO_CELL)
        if max(map(len, parts)) <= LONGEST:
            return "/".join(("cases", *parts))
    file, _, rest = case_id.partition("::")
    test, _, cell = rest.partition("[")
    parts = (
        _readable(file.removesuffix(".py").replace("/", ".")),
        _readable(test),
        _readable(cell.removesuffix("]"), digest_of=case_id),
    )
    return "/".join(("cases", *parts))


def attempt_path(case_id: str, attempt: int) -> str:
    """Return the path of one attempt's folder, relative to the folder of its session."""
    return f"{case_path(case_id)}/attempt-{attempt}"


def folder_name(text: str) -> str:
    """Return a name for a folder: the text itself where it is plain, else a readable form with a digest."""
    if _PLAIN.fullmatch(text) and len(text) <= LONGEST:
        return text
    return _readable(text, digest_of=text)


def file_name(name: str, *, longest: int = LONGEST) -> str:
    """Return a name for a file that keeps as much of a given one as is safe: spaces and any script included.

    Different names can give the same result; the caller makes it unique.

    :param name: as it was given; may hold a path, of which the last part counts.
    :param longest: bytes that the name may take in UTF-8.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    safe = _UNSAFE.sub("_", last).lstrip(".").strip() or "unnamed"
    if len(safe.encode()) <= longest:
        return safe
    stem, dot, suffix = safe.rpartition(".")
    if not dot or not stem or len(suffix.encode()) > 16:
        stem, dot, suffix = safe, "", ""
    room = longest - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + suffix


def reserve(folder: Path, name: str, *, limit: int = 10_000) -> Path:
    """Create and return the first free path of `name`, `name-2`, `name-3`...

    The number is found by bisection: a search from 1 would be quadratic for one name again and again.

    :param limit: files of one name.
    :raises LabError: there are as many.
    """
    stem, suffix = os.path.splitext(name)

    def path(number: int) -> Path:
        return folder / (name if number == 1 else f"{stem}-{number}{suffix}")

    low, high = 0, 1  # `low` is taken, `high` may be free
    while True:
        while path(high).exists():
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if path(middle).exists() else (low, middle)
        if high > limit:
            raise LabError(f"there are {limit} files named {name[:200]!r}")
        try:
            path(high).touch(exist_ok=False)
        except FileExistsError:  # by another writer at the same time
            low, high = high, high + 1
        else:
            return path(high)


def _readable(text: str, *, digest_of: str | None = None) -> str:
    # surrogatepass: an id may come from anywhere, and two that differ in a lone surrogate differ.
    digest = hashlib.sha256((digest_of or "").encode(errors="surrogatepass")).hexdigest()
    tail = "" if digest_of is None else f"~{digest[:_DIGEST]}"
    slug = _ODD.sub("_", text).lstrip(".-")
    return (slug[: LONGEST - len(tail)] + tail) or "_"


def mark(folder: Path) -> None:
    """Mark a folder as one that holds results: clients upload files there that must not run as tests."""
    (folder / RESULTS_MARKER).write_text("Results of trafficlight: not searched for tests.\n")


def remove_partial_uploads(folder: Path) -> None:
    """Remove what uploads left in a folder, or below it, that their coordinator's end interrupted."""
    for path in folder.rglob(f".{'[0-9a-f]' * 16}{PARTIAL}"):
        path.unlink(missing_ok=True)


class AttemptFolder:
    """The folder of one attempt of a case.

    :param path: the folder; :meth:`create` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, servers: Iterable[str] = ()) -> None:
        """Create the folder, and the folders of homeservers.

        :param servers: the server roles.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for role in servers:
            self.server_log(role).parent.mkdir(parents=True, exist_ok=True)

    @property
    def log_info(self) -> Path:
        """The log at level info."""
        return self.path / "log.info"

    @property
    def log_debug(self) -> Path:
        """The log at level debug."""
        return self.path / "log.debug"

    @property
    def measurements(self) -> Path:
        """The measurements that the test recorded."""
        return self.path / "measurements.json"

    def client(self, role: str) -> Path:
        """Return the folder for the uploads of a client; create it.

        :raises FileNotFoundError: the attempt's folder was deleted.
        """
        clients = self.path / "clients"
        clients.mkdir(exist_ok=True)
        mark(clients)
        folder = clients / folder_name(role)
        folder.mkdir(exist_ok=True)
        return folder

    def server_log(self, role: str) -> Path:
        """Return the path of a homeserver's log."""
        return self.path / "servers" / folder_name(role) / "homeserver.log"

    def attachment(self, name: str) -> Path:
        """Create an empty file for an attachment, with its own name if that is safe and free."""
        folder = self.path / "attachments"
        folder.mkdir(exist_ok=True)
        return reserve(folder, file_name(name))


class ResultsFolder:
    """The folder of one session: ``<root>/<date>--<number>``.

    :param path: the folder; it exists.
    :ivar place: where it is once it is complete; only of one that is assembled another path.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.place = path
        self.id = path.name

    @classmethod
    def create(cls, root: Path, today: date) -> "ResultsFolder":
        """Create the folder of a new session and link ``<root>/current`` and ``<root>/latest`` to it.

        ``latest`` already now: if the session cannot start or end, it must not show an older one.

        No two callers get the same one, in any number of processes.
        """
        path = _reserved(root, today)
        mark(path)
        folder = cls(path)
        with _locked(root):
            folder._link(CURRENT)
            folder._link(LATEST)
        return folder

    @classmethod
    @contextlib.contextmanager
    def assembled(cls, root: Path, today: date) -> Iterator["ResultsFolder"]:
        """Create the folder of a session that has ended before; it is in its place once this is left.

        Leaving it with an error removes what was written.
        """
        folder = cls(_reserved(root, today))
        folder.path = root / f".{folder.id}.{os.getpid()}-{secrets.token_hex(4)}"
        try:
            folder.path.mkdir()
            mark(folder.path)
            yield folder
            folder.path.rename(folder.place)  # which is empty
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.place.rmdir()
            raise
        folder.path = folder.place
        folder.finish()

    @classmethod
    def open(cls, path: Path) -> "ResultsFolder":
        """Return the folder of an earlier session.

        :param path: the folder itself or a link to it, such as ``results/latest``.
        :raises FileNotFoundError: if there is none.
        :raises NotADirectoryError: if it is something else.
        """
        real = path.resolve(strict=True)
        if not real.is_dir():
            raise NotADirectoryError(f"{path} is not a folder")
        return cls(real)

    @property
    def events(self) -> Path:
        """Every event of the session, one JSON object a line."""
        return self.path / "events.jsonl"

    def write_request(self, request: Mapping[str, Any], *, resumable: bool) -> None:
        """Write ``request.json``: what the session is asked to run.

        :param resumable: whether the next coordinator resumes the session if this one is killed.
        """
        content = json.dumps({"schema": 1, "resumable": resumable, "request": request}, indent=2)
        write_atomically(self._request, content.encode() + b"\n")

    def read_request(self, *, resumable: bool = False) -> dict[str, Any] | None:
        """Return what the session was asked to run; None if that is not recorded.

        :param resumable: return None for a session that must not be resumed.
        """
        try:
            known = json.loads(self._request.read_bytes())
            return dict(known["request"]) if known["resumable"] or not resumable else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def remove_request(self) -> None:
        """Remove ``request.json``, so that a session that was refused is not resumed."""
        self._request.unlink(missing_ok=True)

    @property
    def _request(self) -> Path:
        return self.path / "request.json"

    @property
    def junit(self) -> Path:
        """The JUnit document."""
        return self.path / "junit.xml"

    def attempt(self, case_id: str, attempt: int) -> AttemptFolder:
        """Return the folder of one attempt of a case, which may not exist yet."""
        return AttemptFolder(self.path / attempt_path(case_id, attempt))

    def finish(self) -> None:
        """Link ``<root>/latest`` to this folder, and remove ``<root>/current`` if it does."""
        with _locked(self.path.parent):
            self._link(LATEST)
            current = self.path.parent / CURRENT
            with contextlib.suppress(OSError):
                if os.readlink(current) == self.id:
                    current.unlink()

    def _link(self, name: str) -> None:
        link = self.path.parent / name
        with contextlib.suppress(OSError):
            if os.readlink(link) == self.id:  # a full disk has no place for it
                return
        temporary = link.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            os.symlink(self.id, temporary)
            os.replace(temporary, link)
        except OSError as error:
            # The links are optional: some file systems have none, or the name is taken by a folder.
            temporary.unlink(missing_ok=True)
            why = "it is no link, and still shows what it did" if link.exists() else error
            logger.warning("cannot link %s to %s: %s", link, self.id, why)


def _reserved(root: Path, today: date) -> Path:
    """Create and return the folder for the next session."""
    root.mkdir(parents=True, exist_ok=True)
    numbered = re.compile(rf"{today.isoformat()}--(\d+)")
    taken = (numbered.fullmatch(name) for name in os.listdir(root))
    number = max((int(match[1]) for match in taken if match), default=0) + 1
    while True:
        path = root / f"{today.isoformat()}--{number:03d}"
        try:
            path.mkdir()  # creating it is the lock
        except FileExistsError:
            number += 1
        else:
            return path


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Lock the links against other processes, from reading them to writing them."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
