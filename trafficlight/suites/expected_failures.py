"""Failures that are known: which cases, why, and where it is being dealt with.

::

    - case: "chat/verify_test.py::Verify[*alice=HydrogenWeb*]"
      reason: Hydrogen cannot verify
      link: https://example.org/issues/1
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trafficlight.errors import ConfigError
from trafficlight.suites.case_ids import base_id
from trafficlight.suites.yaml_files import read_yaml

_FIELDS = ("case", "reason", "link")


@dataclass(frozen=True)
class ExpectedFailure:
    """One entry.

    :param pattern: a case id in which ``*`` and ``?`` stand for anything; without a bracket, all cases of a
        suite.
    :param reason: why they fail, one line.
    :param link: where it is being dealt with; may be empty.
    """

    pattern: str
    reason: str
    link: str = ""

    def matches(self, case_id: str) -> bool:
        """Return whether a case is meant; all its repetitions are."""
        plain = base_id(case_id)
        if "[" not in self.pattern:
            plain = plain.partition("[")[0]
        return self._regex.fullmatch(plain) is not None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        # Not fnmatch: the brackets of a case id mean themselves.
        return re.compile(re.escape(self.pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExpectedFailures:
    """All that is expected to fail."""

    entries: tuple[ExpectedFailure, ...] = ()

    def match(self, case_id: str) -> ExpectedFailure | None:
        """Return the first entry that means a case."""
        return next((entry for entry in self.entries if entry.matches(case_id)), None)

    def unused(self, case_ids: Iterable[str]) -> list[ExpectedFailure]:
        """Return the entries that mean none of these cases."""
        ids = list(case_ids)
        return [entry for entry in self.entries if not any(entry.matches(one) for one in ids)]


def read_expected_failures(path: Path) -> ExpectedFailures:
    """Read a file of expected failures.

    :raises ConfigError: it is malformed.
    """
    content = read_yaml(path)
    if not isinstance(content, list | None):
        raise ConfigError("is to be a list of entries with case, reason and link", source=str(path))
    return ExpectedFailures(
        tuple(_read_entry(entry, number, path) for number, entry in enumerate(content or (), 1))
    )


def _read_entry(entry: object, number: int, path: Path) -> ExpectedFailure:
    key = f"entry {number}"
    if not isinstance(entry, dict):
        raise ConfigError("is to be a mapping with case, reason and link", key=key, source=str(path))
    for name in entry:
        if name not in _FIELDS:
            raise ConfigError(
                f"has no field {name!r}; there are case, reason and link", key=key, source=str(path)
            )
    for name in ("case", "reason"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise ConfigError(f"needs {name}, a text", key=key, source=str(path))
    link = entry.get("link") or ""
    if not isinstance(link, str):
        raise ConfigError("has a link that is no text", key=key, source=str(path))
    return ExpectedFailure(entry["case"], " ".join(entry["reason"].split()), link)
