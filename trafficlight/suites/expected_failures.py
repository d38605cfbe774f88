"""Expected failures: which cases, why, and the issue that tracks it.

::

    - case: "chat/verify_test.py::Verify[*alice=HydrogenWeb*]"
      reason: Hydrogen cannot verify
      link: https://example.org/issues/1
"""

import re
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from trafficlight.errors import ConfigError
from trafficlight.suites.case_ids import base_id
from trafficlight.suites.yaml_files import read_yaml

_FIELDS = ("case", "reason", "link")


class ExpectedFailure(BaseModel):
    """Cases that are known to fail."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str = Field(
        min_length=1,
        description="A case id; `*` and `?` stand for anything. Without a bracket, all cases of a suite.",
    )
    reason: str = Field(min_length=1, description="Why they fail.")
    link: str = Field(default="", description="Where it is being dealt with.")

    def matches(self, case_id: str) -> bool:
        """Return whether a case, or a repetition of it, is meant."""
        plain = base_id(case_id)
        if "[" not in self.case:
            plain = plain.partition("[")[0]
        return self._regex.fullmatch(plain) is not None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        # Not fnmatch: the brackets of a case id are literal.
        return re.compile(re.escape(self.case).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def read_expected_failures(path: Path) -> list[ExpectedFailure]:
    """Read a file of expected failures.

    :raises ConfigError: it is malformed.
    """
    content = read_yaml(path)
    if not isinstance(content, list | None):
        raise ConfigError("must be a list of entries with case, reason and link", source=str(path))
    return [_read_entry(entry, number, path) for number, entry in enumerate(content or (), 1)]


def _read_entry(entry: object, number: int, path: Path) -> ExpectedFailure:
    key = f"entry {number}"
    if not isinstance(entry, dict):
        raise ConfigError("must be a mapping with case, reason and link", key=key, source=str(path))
    for name in entry:
        if name not in _FIELDS:
            raise ConfigError(
                f"has no field {name!r}; there are case, reason and link", key=key, source=str(path)
            )
    for name in ("case", "reason"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise ConfigError(f"needs {name}, a string", key=key, source=str(path))
    link = entry.get("link") or ""
    if not isinstance(link, str):
        raise ConfigError("link must be a string", key=key, source=str(path))
    return ExpectedFailure(case=entry["case"], reason=" ".join(entry["reason"].split()), link=link)
