"""Suite files: named lists of what to run, in YAML.

::

    smoke:
      - chat/send_messages_test.py
      - video/*_test.py::Mute*
    nightly:
      include: [.]
      exclude: ["chat/slow_test.py::Slow[alice=HydrogenWeb]"]
"""

from dataclasses import dataclass
from pathlib import Path

from trafficlight.errors import ConfigError, UsageError
from trafficlight.suites.yaml_files import read_yaml, texts

_INCLUDE = ("include", "included")
_EXCLUDE = ("exclude", "excluded")


@dataclass(frozen=True, slots=True)
class SuiteList:
    """One named list. Its paths are relative to the file's directory, and may be globs."""

    name: str
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()


def is_suite_file(path: Path) -> bool:
    """Return whether a path looks like a suite file."""
    return path.suffix in {".yml", ".yaml"}


def read_suite_file(path: Path, name: str | None = None) -> list[SuiteList]:
    """Return the lists in a suite file.

    :param name: the only one that is wanted; None for all.
    :raises ConfigError: the file is malformed.
    :raises UsageError: it has no list of that name.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ConfigError("is to be a mapping from names to lists of tests", source=str(path))
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
            "is unknown; there are include and exclude", key=f"{name}.{unknown[0]}", source=str(path)
        )
    include = [entry for key in _INCLUDE for entry in texts(value.get(key), key=f"{name}.{key}", source=path)]
    exclude = [entry for key in _EXCLUDE for entry in texts(value.get(key), key=f"{name}.{key}", source=path)]
    return SuiteList(name, tuple(_stated(include, name, path)), tuple(exclude))


def _stated(value: object, name: str, path: Path) -> list[str]:
    stated = texts(value, key=name, source=path)
    if not stated:
        raise ConfigError("names no tests", key=name, source=str(path))
    return stated
