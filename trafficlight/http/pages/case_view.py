"""What the page of one case shows: its attempts, from the record and from the folder that they left."""

import os
from dataclasses import dataclass
from pathlib import Path

from trafficlight.http.pages.files import media_type_of
from trafficlight.results.attempt import AttemptRecord
from trafficlight.results.case import CaseRecord
from trafficlight.results.reports.timeline import Step, steps

_STEPS = 400  # told of one attempt
_FILES = 500  # listed of one attempt
_LOG_TAIL = 64 << 10  # bytes of the log
# Shown in the page itself; the browser decides by the type that the file is served with.
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif")


@dataclass(frozen=True, slots=True)
class StepView:
    """One entry of the story, and where its bar lies, in percent of the attempt."""

    step: Step
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class FileView:
    """A file that the attempt left behind.

    :ivar path: below the session's folder.
    :ivar name: for people: as it was sent, where a client sent it.
    :ivar kind: ``image``, ``video``, ``audio`` or ``file``.
    """

    path: str
    name: str
    size: int
    role: str
    kind: str


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt.

    :ivar left_out: how many steps in the middle are not told.
    :ivar log: the end of its log; empty where there is none yet.
    """

    record: AttemptRecord
    steps: list[StepView]
    left_out: int
    log: str
    files: list[FileView]


def attempt_views(folder: Path, case: CaseRecord) -> list[AttemptView]:
    """Return the attempts, the latest first. Reads the disk.

    :param folder: the session's.
    """
    return [_view(folder, attempt) for attempt in reversed(case.attempts)]


def _view(folder: Path, attempt: AttemptRecord) -> AttemptView:
    every = steps(attempt)
    left_out = attempt.dropped
    if len(every) > _STEPS:
        left_out += len(every) - _STEPS
        every = every[: _STEPS // 2] + every[-(_STEPS // 2) :]
    whole = max([attempt.seconds, 0.001, *(step.offset + (step.seconds or 0.0) for step in every)])
    return AttemptView(
        attempt,
        [_placed(step, whole) for step in every],
        left_out,
        _tail(folder / attempt.folder / "log.info"),
        _files(folder, attempt),
    )


def _placed(step: Step, whole: float) -> StepView:
    took = step.seconds or 0.0
    # A server's time ends when it is ready, an action's begins when it is asked for.
    begin = step.offset - took if step.kind == "server" else step.offset
    left = max(0.0, min(99.0, 100 * begin / whole))
    return StepView(step, round(left, 2), round(max(0.6, min(100.0 - left, 100 * took / whole)), 2))


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _LOG_TAIL))
            text = file.read(_LOG_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
    return text if size <= _LOG_TAIL else "[…]\n" + text.partition("\n")[2]


def _files(folder: Path, attempt: AttemptRecord) -> list[FileView]:
    """List what lies in the attempt's folder: also what came too late for the record."""
    sent = {file.path: file for file in attempt.files}
    base = folder / attempt.folder
    found: list[FileView] = []
    for where, folders, names in os.walk(base):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            below = path.relative_to(base).as_posix()
            if name.startswith(".") or len(found) >= _FILES:
                continue
            known = sent.get(below)
            parts = below.split("/")
            owner = parts[1] if len(parts) > 2 and parts[0] in ("clients", "servers") else ""
            found.append(
                FileView(
                    f"{attempt.folder}/{below}",
                    known.name if known is not None else parts[-1] if owner else below,
                    path.lstat().st_size,
                    known.role if known is not None and known.role else owner,
                    _kind(name),
                )
            )
    return found


def _kind(name: str) -> str:
    if name.lower().endswith(_PICTURES):
        return "image"
    family = media_type_of(name).partition("/")[0]
    return family if family in ("video", "audio") else "file"
