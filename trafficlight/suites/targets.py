"""What stands on the command line: files, directories, suite files, and symbols in them."""

import ast
import contextlib
import fnmatch
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficlight.errors import UsageError
from trafficlight.suites.case_ids import Cell, decode_file, read_cells
from trafficlight.suites.discovery import files_below
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case
from trafficlight.suites.rendering import render_name, render_value
from trafficlight.suites.suite_files import is_suite_file, read_suite_file

_SYMBOL = re.compile(
    r"(?P<cls>[\w*?]+)(?:\.(?P<method>[\w*?]+))?"
    r"(?:\[(?P<cells>.*)\](?:#\d+)?|@(?P<json>\{.*\})|#\d+)?\Z",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A part of a test file.

    :param class_name: a class, or a glob.
    :param method: a method, or a glob; None for all.
    :param cells: roles and parameters that a case has to have.
    :param parameters: values that the test is to run with instead of its own.
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
            # The id of a case of run() names no method, and is to mean nothing else.
            return not self.cells or method == "run"
        return fnmatch.fnmatchcase(method, self.method)

    def holds(self, case: Case) -> bool:
        """Return whether a case is meant."""
        if not self.means(case.class_name, case.method):
            return False
        if not self.cells:
            return True
        roles = {role: render_name(name) for role, name in case.roles.items()}
        roles |= {"+".join(slot.roles): render_name(slot.type.name()) for slot in case.servers}
        values = {name: render_value(value) for name, value in case.parameters.items()}
        return all(
            fnmatch.fnmatchcase(roles[cell.key], cell.value)
            if cell.key in roles
            else values.get(cell.key) in (cell.value, _normal(cell.value))
            for cell in self.cells
        )


@dataclass(frozen=True, slots=True)
class Target:
    """One file, or a part of it, that was asked for.

    :param path: the file.
    :param root: where the search started.
    :param text: how it was asked for.
    :param named: whether the file itself was, and not a directory above it.
    :param symbol: the part of it; None for all.
    :param without: what is left out of it.
    """

    path: Path
    root: Path
    text: str
    named: bool = False
    symbol: Symbol | None = None
    without: "tuple[Target, ...]" = ()

    def holds(self, case: Case) -> bool:
        """Return whether a case of the same file is meant."""
        if self.symbol is not None and not self.symbol.holds(case):
            return False
        return not any(one.path == self.path and one.holds(case) for one in self.without)


def read_target(
    text: str, directory: Path, patterns: Sequence[str], *, globs: bool = False
) -> Iterator[Target]:
    """Yield the files that a target means.

    :param text: a path, or a path and a symbol with ``::`` between them.
    :param directory: what relative paths start from; the suites that ship come second.
    :param patterns: which files of a directory count.
    :param globs: whether the path may be a glob, which starts from `directory` as the root of the search.
    :raises UsageError: there is no such thing.
    """
    place, symbol = _located(text, directory)
    if place is not None and is_suite_file(place):
        yield from _from_suite_file(place, symbol, patterns)
        return
    part = _read_symbol(symbol, text) if symbol else None
    if place is not None and place.is_dir():
        root = directory if globs and place.is_relative_to(directory) else place
        for path in files_below(place, patterns):
            yield Target(path, root, text, symbol=part)
    elif place is not None:
        root = directory if globs and place.is_relative_to(directory) else place.parent
        yield Target(place, root, text, True, part)
    else:
        pattern = text.partition("::")[0]
        matches = sorted(glob.glob(pattern, root_dir=directory, recursive=True)) if globs else ()
        if not matches:
            raise UsageError(f"there is no {text.partition('::')[0]} ({_where_to_look(text, directory)})")
        for match in matches:
            inner = match + (f"::{symbol}" if symbol else "")
            yield from read_target(inner, directory, patterns, globs=True)


def _located(text: str, directory: Path) -> tuple[Path | None, str]:
    """Return the path in a target, absolute, and the symbol behind it; None where there is no such path."""
    path, _, symbol = text.partition("::")
    # A path may hold :: itself, and the file part of a case id may be encoded.
    written = [(text, ""), (path, symbol)]
    with contextlib.suppress(ValueError):
        written.append((decode_file(path), symbol))
    for one, rest in written:
        for base in (directory, SHIPPED):
            # Not Path.exists, which raises where a name is too long, as that of a whole case id may be.
            if one and os.path.exists(place := os.path.abspath(base / one)):
                return Path(place), rest
    return None, symbol


def _from_suite_file(path: Path, name: str, patterns: Sequence[str]) -> Iterator[Target]:
    for suite in read_suite_file(path, name or None):
        without = tuple(
            one for entry in suite.exclude for one in read_target(entry, path.parent, patterns, globs=True)
        )
        for entry in suite.include:
            for one in read_target(entry, path.parent, patterns, globs=True):
                yield Target(one.path, one.root, one.text, one.named, one.symbol, (*one.without, *without))


def _read_symbol(symbol: str, text: str) -> Symbol:
    found = _SYMBOL.match(symbol)
    if found is None:
        raise UsageError(f"{text}: behind :: comes Class, Class.method, [role=Type,...] or @{{json}}")
    try:
        parameters = json.loads(found["json"]) if found["json"] else {}
        return Symbol(found["cls"], found["method"], tuple(read_cells(found["cells"] or "")), parameters)
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from error


def _normal(value: str) -> str | None:
    """Return a value that was typed by hand as it stands in case ids."""
    try:
        return render_value(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return render_value(value)


def _where_to_look(text: str, directory: Path) -> str:
    if "::" in text:
        return f"looked in {directory} and among the suites that ship"
    return f"looked in {directory}"
