"""Test files as Python modules: imported by path, from any directory, under unique names."""

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from trafficlight.errors import TestFileError
from trafficlight.test import Test

# The built-in suites are modules of this package, so that their helpers are imported by name.
SHIPPED = Path(__file__).resolve().parent.parent / "tests"
_SHIPPED_PACKAGE = "trafficlight.tests"
# The attribute of a module with the modification time and size of its file.
_STAMP = "__trafficlight_stamp__"
_FOREIGN_PACKAGE = "trafficlight_test_"
# A package of this name in a user's tree is the application of the original: never executed.
_OWN_NAME = "trafficlight"
# Directories that are added for one file before its imports count as endless.
_MOST_TREES = 20


def load_test_class(path: Path, class_name: str) -> type[Test]:
    """Return a test class of a file; always the same one in a process.

    :raises TestFileError: the file cannot be imported, or has no such test.
    """
    found = getattr(load_module(path), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Test)):
        raise TestFileError(path, None, f"there is no test {class_name} in it", "has the file changed?")
    return found


def load_module(path: Path) -> ModuleType:
    """Import a test file and return its module; the same one in a process until the file is edited.

    :raises TestFileError: it cannot be imported.
    """
    path = Path(path).absolute()
    try:
        found = path.stat()
    except OSError:
        raise TestFileError(path, None, "the file does not exist") from None
    if not stat.S_ISREG(found.st_mode):  # to read a pipe or a device might never end
        raise TestFileError(path, None, "it is not a regular file")
    name, stamp = _module_name(path), (found.st_mtime_ns, found.st_size)
    if (loaded := sys.modules.get(name)) is not None:
        if getattr(loaded, _STAMP, stamp) == stamp:
            return loaded
        del sys.modules[name]  # edited since
    module = _load(path)
    setattr(module, _STAMP, stamp)
    return module


def _load(path: Path) -> ModuleType:
    # Output of the import must not mix with JSON on standard output.
    with contextlib.redirect_stdout(sys.stderr), _helpers_importable(path.parent):
        for _ in range(_MOST_TREES):
            try:
                return _import(path)
            except ImportError as error:
                if not _extend_shipped(path, _missing(error)):
                    raise _import_error(path, error) from error
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise _import_error(path, error) from error
    raise TestFileError(path, None, "its imports do not end")


def _module_name(path: Path) -> str:
    """Return the module name of a file: unique, and the same in every process."""
    if (shipped := _in_shipped(path)) is not None:
        return ".".join((_SHIPPED_PACKAGE, *_parts(shipped)))
    top = top_of(path)
    # A dot in a file name does not separate modules.
    parts = (part.replace("%", "%25").replace(".", "%2E") for part in _parts(path.relative_to(top)))
    return ".".join((_package_of(top), *parts))


def _in_shipped(path: Path) -> Path | None:
    if path.suffix == ".py":
        for real in (path, path.resolve()):
            if real.is_relative_to(SHIPPED):
                return real.relative_to(SHIPPED)
    return None


def top_of(path: Path) -> Path:
    """Return the directory of the synthetic package: the file's own, or that of its topmost package."""
    top = path.parent
    while _is_package(top) and _is_package(top.parent):
        top = top.parent
    return top


def _is_package(folder: Path) -> bool:
    return folder.name != _OWN_NAME and (folder / "__init__.py").is_file()


def _package_of(top: Path) -> str:
    return f"{_FOREIGN_PACKAGE}{hashlib.sha256(bytes(top)).hexdigest()[:12]}"


def _import(path: Path) -> ModuleType:
    name = _module_name(path)
    if _in_shipped(path) is not None:
        return importlib.import_module(name)
    top = top_of(path)
    package = _package_of(top)
    if package not in sys.modules:
        _execute(package, top / "__init__.py" if _is_package(top) else None, search=top)
    if (parent := name.rpartition(".")[0]) != package:
        importlib.import_module(parent)
    return _execute(name, path)


def _execute(name: str, path: Path | None, *, search: Path | None = None) -> ModuleType:
    # The loader is explicit, so that any suffix works.
    loader = importlib.machinery.SourceFileLoader(name, str(path)) if path is not None else None
    origin = str(path or search)
    spec = importlib.machinery.ModuleSpec(name, loader, origin=origin, is_package=search is not None)
    if search is not None:
        spec.submodule_search_locations = [str(search)]
    spec.has_location = loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if loader is not None:
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _parts(relative: Path) -> tuple[str, ...]:
    return relative.with_suffix("").parts if relative.suffix == ".py" else relative.parts


@contextlib.contextmanager
def _helpers_importable(folder: Path) -> Iterator[None]:
    """Let a file import the helpers in its folder by their bare names.

    The folder is first on the path during the import, and last afterwards: helpers must not shadow modules.
    """
    if folder.is_relative_to(SHIPPED):
        yield
        return
    _forget_helpers_elsewhere(folder)
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have changed it
            sys.path.remove(entry)
        if entry not in sys.path:
            sys.path.append(entry)


def _forget_helpers_elsewhere(folder: Path) -> None:
    """Unload helpers of other test folders that share a name with one in this folder."""
    tests = [module for name, module in sys.modules.items() if name.startswith(_FOREIGN_PACKAGE)]
    folders = {Path(module.__file__).parent for module in tests if module.__file__} - {folder}
    helpers = {entry.stem for entry in folder.iterdir() if entry.is_dir() or entry.suffix == ".py"}
    for name in helpers - {_OWN_NAME}:
        origin = getattr(sys.modules.get(name), "__file__", None)
        if origin and not folders.isdisjoint((Path(origin).parent, Path(origin).parent.parent)):
            for stale in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
                del sys.modules[stale]


def _missing(error: ImportError) -> str:
    """Return the module that an import did not find: for ``from package import name``, ``package.name``."""
    if isinstance(error, ModuleNotFoundError):
        return error.name or ""
    # 3.11 has no ImportError.name_from.
    name = re.match(r"cannot import name '(\w+)' from ", str(error))
    return f"{error.name}.{name[1]}" if name else ""


def _extend_shipped(path: Path, missing: str) -> bool:
    """Let a file import helpers of its tree as ``trafficlight.tests.*``; return whether that is new."""
    if not missing.startswith(f"{_SHIPPED_PACKAGE}."):
        return False
    parts = missing.removeprefix(f"{_SHIPPED_PACKAGE}.").split(".")
    for root in path.parents:
        wanted = root.joinpath(*parts)
        if wanted.is_dir() or wanted.with_suffix(".py").is_file():
            # The innermost first: the built-in packages stay in front.
            return [_extend(root, parts[:depth]) for depth in reversed(range(len(parts)))].count(True) > 0
    return False


def _extend(root: Path, parts: list[str]) -> bool:
    """Extend a package of the built-in suites to another tree; return whether that is new."""
    entry = str(root.joinpath(*parts))
    try:
        package = importlib.import_module(".".join((_SHIPPED_PACKAGE, *parts)))
    except ModuleNotFoundError:
        return False
    if entry in package.__path__:
        return False
    # Not appended: a namespace package recomputes its list.
    package.__path__ = [*package.__path__, entry]
    return True


def _import_error(path: Path, error: BaseException) -> TestFileError:
    """Return the error of a failed import, with its line."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"install {error.name.partition('.')[0]}, or put {error.name} next to the file"
        if error.name.startswith(f"{_OWN_NAME}."):
            hint = "this version of trafficlight has no such module"
        if error.name == "assertpy":
            hint = "install trafficlight[compat]"
    if re.search(r"\b(parametrize|matrix|defaults)\(\) takes 0 positional arguments", str(error)):
        hint = "write @matrix(n=[1, 2]) for a case per value, or @parametrize(n=1) for one case"
    return TestFileError(path, line, f"does not import: {type(error).__name__}: {error}".rstrip(": "), hint)
