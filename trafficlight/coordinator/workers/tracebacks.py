"""What a worker's output tells of a test file that took it down, or held it up, when it was imported."""

import asyncio
import re
from pathlib import Path

# Lines that are shown.
_LAST_LINES = 20
# A worker that is asked where it is writes down its tasks, the stack of its main thread with the text of the
# lines, and then all threads in short.
_TASKS = re.compile(r"^task .*, awaiting, innermost last:$", re.MULTILINE)
_MAIN = "the thread that runs the test, innermost last:\n"
_THREADS = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
# One line of a stack, with its text where that is there.
_FRAME = re.compile(r'^  File "([^"]+)", line \d+.*\n(?:    .*\n)?', re.MULTILINE)
_PACKAGE = re.escape(str(Path(__file__).parents[2]))
_IMPORTERS = re.compile(rf"<frozen |{_PACKAGE}/(?!tests/)|{re.escape(asyncio.__path__[0])}/")


def line_in(path: Path, words: str) -> int | None:
    """Return where in a file its import was, as far as stacks in a worker's output tell."""
    place = rf'File "{re.escape(str(path))}", line (\d+)'
    found = re.search(rf"{place},? in <module>", words) or re.search(place, words)
    return int(found[1]) if found else None


def without_ours(words: str) -> str:
    """Return the end of a worker's output without what is the same in all stacks: who imports the file."""
    before, dumped, stacks = words.partition(_MAIN)
    if dumped:
        words = _TASKS.split(before, maxsplit=1)[0] + _THREADS.split(stacks, maxsplit=1)[0]
    words = _FRAME.sub(lambda frame: "" if _IMPORTERS.match(frame[1]) else frame[0], words + "\n")
    return "\n".join(words.rstrip().splitlines()[-_LAST_LINES:])
