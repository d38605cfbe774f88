"""Test files, and the files of an attempt, as archives that travel between machines."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from trafficlight.errors import UsageError
from trafficlight.suites.discovery import walk
from trafficlight.suites.imports import SHIPPED, top_of
from trafficlight.suites.model import Case

# Bytes of test files that are sent to each machine, at most.
_MOST = 64 << 20


def trees_of(cases: Iterable[Case]) -> tuple[Path, ...]:
    """Return the folders with the test files of cases, and what these import from beside them. Blocks.

    Not those of the suites that come with trafficlight, which every machine has.
    """
    paths = {case.path for case in cases}
    tops = {top_of(path) for path in paths if not path.resolve().is_relative_to(SHIPPED)}
    return tuple(top for top in sorted(tops) if tops.isdisjoint(top.parents))


def pack(trees: Iterable[Path]) -> bytes:
    """Return an archive of folders: equal bytes for equal files at the same place. Blocks.

    :raises UsageError: they are too large to be sent.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for tree in trees:
            for path in sorted(_files(tree)):
                entry = tarfile.TarInfo(path.relative_to("/").as_posix())
                entry.size = path.stat().st_size
                if buffer.tell() + entry.size > _MOST:
                    raise UsageError(
                        f"the files in {tree} are more than {_MOST >> 20} MiB, too much for test files to be"
                        " sent to other machines: move them to a folder of their own"
                    )
                with path.open("rb") as content:
                    archive.addfile(entry, content)
    return buffer.getvalue()


def _files(tree: Path) -> Iterator[Path]:
    for folder, names in walk(tree):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and path.suffix != ".pyc":
                yield path


def place(trees: Iterable[Path], content: bytes, folder: Path) -> Path:
    """Return the folder below which test files are on this machine. Blocks.

    The root of the file system if the same files are at the same place; otherwise they are unpacked.

    :param folder: where to unpack them.
    """
    trees = list(trees)
    if all(tree.is_dir() for tree in trees):
        try:
            if hashlib.sha256(pack(trees)).digest() == hashlib.sha256(content).digest():
                return Path("/")
        except (OSError, UsageError):  # other files
            pass
    unpack(content, folder)
    return folder


def relocated(case: Case, base: Path, shipped: Path) -> Case:
    """Return a case with the paths that its test file has on this machine.

    :param base: what :func:`place` returned.
    :param shipped: where the suites that come with trafficlight are on the machine that planned the case.
    """

    def here(path: Path) -> Path:
        if path.is_relative_to(shipped):
            return SHIPPED / path.relative_to(shipped)
        return base / path.relative_to("/")

    def version(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_mtime_ns, found.st_size

    clients = dict(case.clients)
    for role, kind in clients.items():
        if (custom := kind.custom) is not None:
            path = here(custom.path)
            clients[role] = replace(kind, custom=replace(custom, path=path, version=version(path)))
    return replace(case, path=here(case.path), clients=clients)


def take(folder: Path) -> bytes:
    """Return an archive of the files in an attempt's folder and remove them; its folders stay. Blocks.

    Empty if there are none.
    """
    files = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    if not files:
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in files:
            archive.add(path, path.relative_to(folder).as_posix())
    for path in files:
        path.unlink(missing_ok=True)
    return buffer.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Unpack an archive into a folder, which is created. Blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter=_harmless)  # noqa: S202 - it is filtered


def _harmless(entry: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(entry, folder)
    except tarfile.FilterError:  # such as a link to somewhere else
        return None
