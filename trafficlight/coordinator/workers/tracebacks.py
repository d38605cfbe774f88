"""What a worker's output says about a test file that ended or blocked it during its import."""

import asyncio
import re
from pathlib import Path

# Lines that are shown.
_LAST_LINES = 20
# A worker dumps its tasks, then the stack of its main thread with source lines, then all threads without.
_TASKS = re.compile(r"^task .*, awaiting, innermost last:$", re.MULTILINE)
_MAIN = "the thread that runs the test, innermost last:\n"
_THREADS = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
# One frame of a stack, with its source line if there is one.
_FRAME = re.compile(r'^  File "([^"]+)", line \d+.*\n(?:    .*\n)?', re.MULTILINE)
_PACKAGE = re.escape(str(Path(__file__).parents[2]))
_IMPORTERS = re.compile(rf"<frozen |{_PACKAGE}/(?!tests/)|{re.escape(asyncio.__path__[0])}/")


def failing_line(path: Path, output: str) -> int | None:
    """Return the line of a file that the stacks in a worker's output name; None if they do not."""
    place = rf'File "{re.escape(str(path))}", line (\d+)'
    found = re.search(rf"{place},? in <module>", output) or re.search(place, output)
    return int(found[1]) if found else None


def strip_internal_frames(output: str) -> str:
    """Return the end of a worker's output without the frames that import test files."""
    before, dumped, stacks = output.partition(_MAIN)
    if dumped:
        output = _TASKS.split(before, maxsplit=1)[0] + _THREADS.split(stacks, maxsplit=1)[0]
    output = _FRAME.sub(lambda frame: "" if _IMPORTERS.match(frame[1]) else frame[0], output + "\n")
    return "\n".join(output.rstrip().splitlines()[-_LAST_LINES:])
