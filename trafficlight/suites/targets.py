"""What the command line names: files, directories, suite files, and symbols in them.

A suite file has named lists of what to run, in YAML::

    smoke:
      - chat/send_messages_test.py
      - video/*_test.py::Mute*
    nightly:
      include: [.]
      exclude: ["chat/slow_test.py::Slow[alice=HydrogenWeb]"]
"""

import ast
import contextlib
import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trafficlight.errors import ConfigError, UsageError
from trafficlight.suites.case_ids import Symbol, base_id, decode_file, read_cells, read_symbol
from trafficlight.suites.discovery import files_below, root_of
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case
from trafficlight.suites.rendering import render_name, render_value
from trafficlight.suites.yaml_files import FAILED_CASES, read_yaml, texts

_INCLUDE = ("include", "included")
_EXCLUDE = ("exclude", "excluded")


@dataclass(frozen=True, slots=True)
class Target:
    """One file, or a part of it, to run.

    :param text: how it was named.
    :param named: whether the file itself was named, and not a directory above it.
    :param symbol: the part of it; None for all.
    :param without: what is excluded from it.
    """

    path: Path
    text: str
    named: bool = False
    symbol: Symbol | None = None
    without: "tuple[Target, ...]" = ()

    def holds(self, case: Case) -> bool:
        """Return whether a case of the same file is meant."""
        if self.symbol is not None and not _means_case(self.symbol, case):
            return False
        return not any(one.path == self.path and one.holds(case) for one in self.without)


def _means_case(symbol: Symbol, case: Case) -> bool:
    if not symbol.means(case.class_name, case.method):
        return False
    if not symbol.cells:
        return True
    roles = {role: render_name(name) for role, name in case.roles.items()}
    roles |= {"+".join(slot.roles): render_name(slot.type_name) for slot in case.servers}
    values = {cell.key: cell.value for cell in read_cells(base_id(case.id)[len(case.suite) + 1 : -1])}
    return all(
        fnmatch.fnmatchcase(roles[cell.key], cell.value)
        if cell.key in roles
        else values.get(cell.key) in (cell.value, _normal(cell.value))
        for cell in symbol.cells
    )


def read_target(
    text: str, directory: Path, patterns: Sequence[str], *, globs: bool = False
) -> Iterator[Target]:
    """Yield the files that a target means.

    :param text: a path, or a path and a symbol with ``::`` between them.
    :param directory: the base of relative paths; its root comes second, the built-in suites last.
    :param patterns: which files of a directory are test files.
    :param globs: whether the path may be a glob.
    :raises UsageError: it does not exist.
    """
    place, symbol = located(text, directory)
    if place is not None and _is_suite_file(place):
        yield from _from_suite_file(place, symbol, patterns)
        return
    part = _read_symbol(symbol, text) if symbol else None
    if place is not None and place.is_dir():
        for path in files_below(place, patterns):
            yield Target(path, text, symbol=part)
    elif place is not None:
        yield Target(place, text, True, part)
    else:
        pattern = text.partition("::")[0]
        matches = sorted(glob.glob(pattern, root_dir=directory, recursive=True)) if globs else ()
        if not matches:
            raise UsageError(f"there is no {text.partition('::')[0]} ({_where_to_look(text, directory)})")
        for match in matches:
            inner = match + (f"::{symbol}" if symbol else "")
            yield from read_target(inner, directory, patterns, globs=True)


def located(text: str, directory: Path) -> tuple[Path | None, str]:
    """Return the path in a target, absolute, and the symbol behind it; None where there is no such path.

    :param directory: the base of relative paths; its root comes second, the built-in suites last.
    """
    path, _, symbol = text.partition("::")
    # A path may hold :: itself, and the file part of a case id may be encoded.
    written = [(text, ""), (path, symbol)]
    bases = (directory, root_of(directory) or directory, SHIPPED)
    with contextlib.suppress(ValueError):
        written.append((decode_file(path), symbol))
    for one, rest in written:
        for base in bases:
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
                yield replace(one, without=(*one.without, *without))


def _read_symbol(symbol: str, text: str) -> Symbol:
    try:
        return read_symbol(symbol)
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from error


def _normal(value: str) -> str | None:
    """Return a value that was typed by hand as case ids render it."""
    try:
        return render_value(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return render_value(value)


def _where_to_look(text: str, directory: Path) -> str:
    places = [str(directory)]
    if (root := root_of(directory)) not in (None, directory):
        places.append(str(root))
    return f"looked in {', '.join(places)} and among the built-in suites"


@dataclass(frozen=True, slots=True)
class SuiteList:
    """One named list. Its paths are relative to the file's directory, and may be globs."""

    name: str
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()


def _is_suite_file(path: Path) -> bool:
    """Return whether a path looks like a suite file."""
    return path.suffix in {".yml", ".yaml"}


def read_suite_file(path: Path, name: str | None = None) -> list[SuiteList]:
    """Return the lists in a suite file.

    :raises ConfigError: the file is malformed.
    :raises UsageError: it has no list of that name.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ConfigError("must be a mapping from names to lists of tests", source=str(path))
    lists = [_read_list(str(key), value, path) for key, value in content.items()]
    if name is None:
        return lists
    found = [one for one in lists if one.name == name]
    if not found:
        raise UsageError(f"{path} has no list {name!r}; it has {', '.join(one.name for one in lists)}")
    return found


def _read_list(name: str, value: object, path: Path) -> SuiteList:
    if not isinstance(value, dict):
        return SuiteList(name, tuple(_stated(value, name, path)))
    unknown = [str(key) for key in value if key not in (*_INCLUDE, *_EXCLUDE)]
    if unknown:
        raise ConfigError(
            "is unknown; known are include and exclude", key=f"{name}.{unknown[0]}", source=str(path)
        )
    include = [entry for key in _INCLUDE for entry in texts(value.get(key), key=f"{name}.{key}", source=path)]
    exclude = [entry for key in _EXCLUDE for entry in texts(value.get(key), key=f"{name}.{key}", source=path)]
    return SuiteList(name, tuple(_stated(include, name, path)), tuple(exclude))


def _stated(value: object, name: str, path: Path) -> list[str]:
    stated = texts(value, key=name, source=path)
    if not stated and path.name != FAILED_CASES:
        raise ConfigError("names no tests", key=name, source=str(path))
    return stated
