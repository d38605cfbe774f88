"""Which sessions' folders are removed: by age, number and size."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trafficlight.config import KeepResults
from trafficlight.results.catalog import read_summary, session_ids
from trafficlight.results.folder import LATEST, ResultsFolder
from trafficlight.results.journal import is_written
from trafficlight.text import count, size

logger = logging.getLogger(__name__)

PIN = "pinned"
"""A file in the folder of a session that is kept."""

_REMOVING = ".removing-"
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Excess:
    """A session that is not kept.

    :ivar bytes: of its files.
    """

    folder: Path
    reason: str
    bytes: int


def excess(root: Path, keep: KeepResults) -> Iterator[Excess]:
    """Yield the sessions that are not to be kept, newest first. Reads the disk.

    Pinned sessions are kept and do not count. Kept are also the latest one, those that run or would be
    resumed, and folders that hold no events.

    :param root: the folder of all sessions' results.
    """
    latest = (root / LATEST).resolve().name
    number = total = 0
    for folder in (root / id for id in session_ids(root)):
        if (folder / PIN).exists() or folder.is_symlink():
            continue
        try:
            age = (time.time() - (folder / "events.jsonl").stat().st_mtime) / _DAY
        except OSError:  # half of it is missing, or it is another program's
            continue
        taken = _size(folder) if keep.bytes is not None else 0
        number += 1
        total += taken
        if keep.days is not None and age > keep.days:
            reason = f"older than {keep.days:g} days"
        elif keep.sessions is not None and number > keep.sessions:
            reason = f"more than {count(keep.sessions, 'session')}"
        elif keep.bytes is not None and total > keep.bytes:
            reason = f"more than {size(keep.bytes)}"
        else:
            continue
        if folder.name != latest and not _is_unfinished(folder):
            total -= taken
            yield Excess(folder, reason, taken or _size(folder))


def remove(folder: Path) -> None:
    """Remove the folder of a session; readers see all of it, or nothing.

    :raises OSError: it cannot be removed.
    """
    hidden = folder.with_name(f"{_REMOVING}{folder.name}")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def enforce(root: Path, keep: KeepResults) -> None:
    """Remove the sessions that are not to be kept; a problem is logged, for the next time. Blocks."""
    for left in root.glob(f"{_REMOVING}*"):  # an earlier process was killed meanwhile
        shutil.rmtree(left, ignore_errors=True)
    try:
        for one in excess(root, keep):
            remove(one.folder)
    except Exception:
        logger.exception("results that are not kept are not removed")


def _is_unfinished(folder: Path) -> bool:
    """Return whether a session runs, or would be resumed by the next coordinator."""
    if is_written(folder / "events.jsonl"):
        return True
    summary = read_summary(folder)
    ended = summary is not None and summary.ended is not None
    return not ended and ResultsFolder(folder).read_request(resumable=True) is not None


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(where, name)).st_size
    return total
