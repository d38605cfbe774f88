"""From a path to test classes: which files are test files, and which of their classes are tests."""

import inspect
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import FunctionType

from trafficlight.config import CONFIGURATION_FILES, RESULTS_MARKER
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.source import is_test_method
from trafficlight.test import Test

DEFAULT_PATTERNS = ("test_*.py", "*_test.py")

# What the folders of sessions of earlier versions have.
_OLD_RESULTS = frozenset({"events.jsonl", "junit.xml"})
# Names of tests, and of what runs before and after them, in other frameworks.
_LIKE_A_TEST = re.compile("[Tt]est[A-Z]|Test_")
_INSTEAD = {
    **dict.fromkeys(("setUp", "asyncSetUp", "setup_method", "setUpClass", "setup_class"), "setup"),
    **dict.fromkeys(
        ("tearDown", "asyncTearDown", "teardown_method", "tearDownClass", "teardown_class"), "teardown"
    ),
}
_NEVER = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


@dataclass(frozen=True, slots=True)
class FileFound:
    """A test file.

    :param name: its name in case ids: the path relative to its root.
    """

    path: Path
    name: str


def root_of(path: Path) -> Path | None:
    """Return the nearest directory, from a path upwards, that is a repository or has a configuration file."""
    markers = (".git", *CONFIGURATION_FILES)
    for folder in (path, *path.parents):
        if any(os.path.exists(folder / marker) for marker in markers):
            return folder
    return None


def file_found(path: Path, directory: Path) -> FileFound:
    """Return a file with its name in case ids, which does not depend on how its path was written.

    :param path: the path; links inside the root are followed.
    :param directory: the root of files outside of any other; the name of a file outside of it is absolute.
    """
    path = Path(os.path.abspath(path))
    real = path.resolve()
    if real.is_relative_to(SHIPPED):
        return FileFound(path, real.relative_to(SHIPPED).as_posix())
    root = root_of(path.parent) or Path(os.path.abspath(directory))
    for one, base in ((real, root.resolve()), (path, root)):
        if one.is_relative_to(base):
            return FileFound(path, one.relative_to(base).as_posix())
    return FileFound(path, path.as_posix())


def files_below(directory: Path, patterns: Sequence[str] = DEFAULT_PATTERNS) -> Iterator[Path]:
    """Yield the test files in a directory, recursively, sorted by path.

    :param patterns: globs; each counts at any depth, with or without a leading ``**/``.
    """
    globs = [pattern.lstrip("/").removeprefix("**/") for pattern in patterns]
    found: list[Path] = []
    for folder, names in walk(directory):
        here = PurePath(os.path.relpath(folder, directory))
        found.extend(Path(folder, name) for name in names if any((here / name).match(glob) for glob in globs))
    yield from sorted(found, key=lambda path: path.relative_to(directory).parts)


def walk(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder that may hold tests, from a directory downwards, with the names of its files."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(directory, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if _holds_no_tests(names):
            subfolders.clear()
            continue
        subfolders[:] = [name for name in subfolders if name not in _NEVER and not name.startswith(".")]
        yield folder, names


def _holds_no_tests(names: Sequence[str]) -> bool:
    """Return whether a folder with these files holds results, whose uploads are not tests, or packages."""
    return RESULTS_MARKER in names or "pyvenv.cfg" in names or _OLD_RESULTS.issubset(names)


def classes_in(module: object, module_name: str) -> dict[str, type[Test]]:
    """Return the tests of a module: the leaves among the subclasses of Test that it defines itself.

    A class without `run` and `test_*` methods is a base class, and so is an abstract one.
    """
    return {name: cls for name, cls in _leaves(module, module_name).items() if methods_of(cls)}


def untested_in(module: object, module_name: str) -> dict[str, type[Test]]:
    """Return the leaves that have roles but no test: most likely a method name is misspelled.

    A name with a leading underscore marks a base class; others may be bases of classes in other files.
    """
    return {
        name: cls
        for name, cls in _leaves(module, module_name).items()
        if not methods_of(cls) and (cls.clients or cls.servers) and not cls.__name__.startswith("_")
    }


def lookalikes_in(module: object, module_name: str) -> Iterator[str]:
    """Yield the names of what a module defines beside its tests and that looks like one."""
    used = {base for cls in _own(module, module_name) for base in cls.__mro__}
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module_name or not getattr(value, "__test__", True):
            continue
        if inspect.isfunction(value) and name.startswith("test_"):
            yield f"{name}()"
        elif isinstance(value, type) and value not in used and _looks_like_a_test(value):
            yield name


def unreached_in(cls: type[Test], tests: Collection[type[Test]]) -> Iterator[str]:
    """Yield what a test class has, or derives, that looks like a part of it, and that nothing calls.

    :param tests: all tests of its file.
    """
    for owner in cls.__mro__[: cls.__mro__.index(Test)]:
        for name, value in vars(owner).items():
            place = f"{owner.__name__}.{name}"
            if is_test_method(name) and not callable(getattr(cls, name, None)):
                yield f"{place} will not run (a test is an async method)"
            elif inspect.isfunction(value) and _LIKE_A_TEST.match(name):
                yield f"{place}() will not run (the name of a test begins with test_)"
            elif instead := _INSTEAD.get(name):
                yield f"{place}() will not be called (it is named {instead} here)"
            elif is_test_method(name) and inspect.isfunction(value) and _is_replaced(owner, name, tests):
                yield f"{place}() will not run (classes that derive from {owner.__name__} replace it)"


def nested_in(module: object, module_name: str) -> Iterator[str]:
    """Yield the names of the tests that are inside of other classes of a module."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module_name:
            for inner in vars(value).values():
                inside = (
                    isinstance(inner, type) and inner.__qualname__ == f"{value.__qualname__}.{inner.__name__}"
                )
                if inside and issubclass(inner, Test) and methods_of(inner):
                    yield inner.__qualname__


def _is_replaced(owner: type, name: str, tests: Collection[type[Test]]) -> bool:
    """Return whether all classes that derive from a base in their file replace a test of it.

    Not if they call it by `super()`, nor if it is clear that it is a base only.
    """
    method: FunctionType = vars(owner)[name]
    if owner.__name__.startswith("_") or "NotImplementedError" in method.__code__.co_names:
        return False
    derived = [getattr(one, name, None) for one in tests if issubclass(one, owner)]
    codes = [getattr(one, "__code__", method.__code__) for one in derived if one is not method]
    same_file = any(one.__module__ == owner.__module__ for one in tests)
    return (
        same_file
        and len(codes) == len(derived)
        and not any("__class__" in code.co_freevars for code in codes)
    )


def _looks_like_a_test(cls: type) -> bool:
    declares = cls.__name__.startswith("Test") or not {"clients", "servers"}.isdisjoint(vars(cls))
    return declares and any(map(is_test_method, vars(cls)))


def origin_of(cls: type) -> tuple[str, str]:
    """Return the file that defines a class, and its name there: the same under all module names."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return os.path.realpath(file) if file else cls.__module__, cls.__qualname__


def _leaves(module: object, module_name: str) -> dict[str, type[Test]]:
    own = _own(module, module_name)
    bases = {base for cls in own for base in cls.__mro__[1:]}
    return {
        name: cls
        for cls, name in own.items()
        if cls not in bases and not inspect.isabstract(cls) and vars(cls).get("__test__", True)
    }


def _own(module: object, module_name: str) -> dict[type[Test], str]:
    """Return the subclasses of Test that a module defines, with their first names."""
    own: dict[type[Test], str] = {}
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, Test) and value.__module__ == module_name:
            own.setdefault(value, name)
    return own


def methods_of(cls: type[Test]) -> list[str]:
    """Return the names of the test methods, inherited ones first, in source order."""
    names: dict[str, None] = {}
    for owner in reversed(cls.__mro__):
        names.update(dict.fromkeys(filter(is_test_method, vars(owner))))
    return [name for name in names if callable(getattr(cls, name, None))]
