"""Case ids: written for people, unique, stable, and readable back.

``chat/send_messages_test.py::SendMessages[alice=Nio,bob=Nio,server=SynapseStable]``: the file, the class, the
method unless it is `run`, the type in every role, the parameters. ``#2`` at the end is the second repetition.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

_REPEAT = re.compile(r"#([1-9]\d*)\Z")
_SYMBOL = re.compile(r"(?P<name>[^\W\d]\w*)(?:\.(?P<method>[^\W\d]\w*))?(?:\[(?P<cells>.*)\])?\Z", re.DOTALL)
_KEY = re.compile(r"[^\W\d]\w*(\+[^\W\d]\w*)*\Z")


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry between the brackets.

    :param key: a role, several roles with ``+`` between them, or a parameter.
    :param value: the rendered name of the type, or the rendered value.
    """

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class CaseId:
    """A case id, taken apart. ``str()`` puts it together again.

    :param file: the test file, relative to where the search started.
    :param class_name: the Test's class.
    :param method: ``run`` or a ``test_*`` method.
    :param cells: what stands between the brackets.
    :param repeat: which repetition, from 1.
    """

    file: str
    class_name: str
    method: str = "run"
    cells: tuple[Cell, ...] = ()
    repeat: int = 1

    @property
    def suite(self) -> str:
        """The id of the suite, which is the part before the bracket."""
        return suite_id(self.file, self.class_name, self.method)

    def __str__(self) -> str:
        cells = f"[{','.join(map(str, self.cells))}]" if self.cells else ""
        return f"{self.suite}{cells}" + (f"#{self.repeat}" if self.repeat > 1 else "")


def suite_id(file: str, class_name: str, method: str) -> str:
    """Return the id of a suite."""
    return f"{encode_file(file)}::{class_name}" + ("" if method == "run" else f".{method}")


def encode_file(file: str) -> str:
    """Return a file's part of an id: itself, with whatever would break an id percent-encoded."""
    if "%" not in file and "::" not in file and not file.endswith(":") and file.isprintable():
        return file
    safe = re.sub(r":(?=:|\Z)|(?<=:):", "%3A", file.replace("%", "%25"))
    return "".join(one if one.isprintable() else quote(one, errors="surrogatepass") for one in safe)


def decode_file(text: str) -> str:
    """Return the file that was encoded by :func:`encode_file`.

    :raises ValueError: it was not.
    """
    return unquote(text, errors="surrogatepass")


def base_id(case_id: str) -> str:
    """Return the id without the number of its repetition."""
    return _REPEAT.sub("", case_id)


def parse_case_id(text: str) -> CaseId:
    """Take a case id apart.

    :raises ValueError: it is none.
    """
    file, separator, symbol = text.partition("::")
    if not separator or not file:
        raise ValueError(f"not a case id, there is no file:: in front: {text}")
    return replace(parse_symbol(symbol), file=decode_file(file))


def parse_symbol(symbol: str) -> CaseId:
    """Take the part of a case id behind the file apart; `file` of the result is empty.

    :raises ValueError: it is none.
    """
    repeat = _REPEAT.search(symbol)
    found = _SYMBOL.match(_REPEAT.sub("", symbol))
    if found is None:
        raise ValueError(f"not of the form Class, Class.method or Class.method[role=Type,...]: {symbol}")
    return CaseId(
        "",
        found["name"],
        found["method"] or "run",
        tuple(read_cells(found["cells"] or "")),
        int(repeat[1]) if repeat else 1,
    )


def read_cells(text: str) -> Iterable[Cell]:
    """Read what stands between the brackets.

    :raises ValueError: an entry is not of the form ``key=value``.
    """
    for entry in _split(text):
        key, separator, value = entry.strip().partition("=")
        if not separator or not _KEY.match(key) or not value:
            raise ValueError(f"not of the form role=Type or parameter=value: {entry}")
        yield Cell(key, value)


def _split(text: str) -> Iterator[str]:
    """Split at the commas that are neither in quotes nor in brackets."""
    depth = start = 0
    quoted = escaped = False
    for index, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
        else:
            depth += (character in "([{") - (character in ")]}")
    if text:
        yield text[start:]
