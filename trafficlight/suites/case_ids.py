"""Case ids: readable, unique, stable, and the grammar that names cases on the command line.

``chat/send_messages_test.py::SendMessages[alice=Nio,bob=Nio,server=SynapseStable]``: the file, the class, the
method unless it is `run`, the type in every role, the parameters. ``#2`` at the end is the second repetition.
"""

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from trafficlight.text import split_outside

_REPEAT = re.compile(r"#([1-9]\d*)\Z")
_SYMBOL = re.compile(
    r"(?P<cls>[\w*?]+)(?:\.(?P<method>[\w*?]+))?"
    r"(?:\[(?P<cells>.*)\](?:#\d+)?|@(?P<json>\{.*\})|#\d+)?\Z",
    re.DOTALL,
)
_KEY = re.compile(r"[^\W\d]\w*(\+[^\W\d]\w*)*\Z")


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry between the brackets.

    :param key: a role, several roles joined with ``+``, or a parameter.
    :param value: the rendered name of the type, or the rendered value.
    """

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """The part of a case id behind ``::``, or a pattern of one.

    :param class_name: a class, or a glob.
    :param method: a method, or a glob; None for all.
    :param cells: roles and parameters that a case must have.
    :param parameters: values in place of the test's own.
    """

    class_name: str
    method: str | None = None
    cells: tuple[Cell, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def means(self, class_name: str, method: str | None = None) -> bool:
        """Return whether a class, or a method of it, is meant."""
        if not fnmatch.fnmatchcase(class_name, self.class_name):
            return False
        if method is None:
            return True
        if self.method is None:
            # The id of a case of run() names no method, and must not mean another one.
            return not self.cells or method == "run"
        return fnmatch.fnmatchcase(method, self.method)


def read_symbol(text: str) -> Symbol:
    """Parse ``Class``, ``Class.method``, ``Class[role=Type,...]`` or ``Class@{json}``; ``#n`` is ignored.

    :raises ValueError: it is malformed.
    """
    found = _SYMBOL.match(text)
    if found is None:
        raise ValueError("behind :: comes Class, Class.method, [role=Type,...] or @{json}")
    parameters = json.loads(found["json"]) if found["json"] else {}
    return Symbol(found["cls"], found["method"], tuple(read_cells(found["cells"] or "")), parameters)


def suite_id(file: str, class_name: str, method: str) -> str:
    """Return the id of a suite."""
    return f"{encode_file(file)}::{class_name}" + ("" if method == "run" else f".{method}")


def case_id(suite: str, cells: Iterable[tuple[str, str]]) -> str:
    """Return the id of a case.

    :param cells: the entries between the brackets: keys and rendered values.
    """
    entries = ",".join(f"{key}={value}" for key, value in cells)
    return f"{suite}[{entries}]" if entries else suite


def encode_file(file: str) -> str:
    """Return a file's part of an id: characters that would break an id are percent-encoded."""
    if "%" not in file and "::" not in file and not file.endswith(":") and file.isprintable():
        return file
    safe = re.sub(r":(?=:|\Z)|(?<=:):", "%3A", file.replace("%", "%25"))
    return "".join(one if one.isprintable() else quote(one, errors="surrogatepass") for one in safe)


def decode_file(text: str) -> str:
    """Return the file that :func:`encode_file` encoded.

    :raises ValueError: it was not encoded by it.
    """
    return unquote(text, errors="surrogatepass")


def base_id(case_id: str) -> str:
    """Return the id without the number of its repetition."""
    return _REPEAT.sub("", case_id)


def moved_to(id: str, ids: Iterable[str]) -> str:
    """Return a hint for an id whose path does not begin at the root; empty if no file of these ids fits."""
    file = id.partition("::")[0]
    files = (one.partition("::")[0] for one in ids)
    found = next((one for one in files if one.endswith(f"/{file}")), "")
    return f" (did you mean {found}? paths in case ids begin at the root)" if found else ""


def read_cells(text: str) -> Iterable[Cell]:
    """Parse the part between the brackets.

    :raises ValueError: an entry is not of the form ``key=value``.
    """
    for entry in split_outside(text):
        key, separator, value = entry.strip().partition("=")
        if not separator or not _KEY.match(key) or not value:
            raise ValueError(f"not of the form role=Type or parameter=value: {entry}")
        yield Cell(key, value)
