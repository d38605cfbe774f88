"""Expected failures: which cases, why, and the issue that tracks it.

::

    - case: "chat/verify_test.py::Verify[*alice=HydrogenWeb*]"
      reason: Hydrogen cannot verify
      link: https://example.org/issues/1
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trafficlight.errors import ConfigError
from trafficlight.suites.case_ids import base_id
from trafficlight.suites.yaml_files import read_yaml
from trafficlight.text import first_problem

_Line: TypeAlias = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


class ExpectedFailure(BaseModel):
    """Cases that are known to fail."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    case: str = Field(
        min_length=1,
        description="A case id; `*` and `?` stand for anything. Without a bracket, all cases of a suite.",
    )
    reason: _Line = Field(min_length=1, description="Why they fail.")
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
    if not isinstance(entry, dict):
        message = "must be a mapping with case, reason and link"
        raise ConfigError(message, key=f"entry {number}", source=str(path))
    try:
        return ExpectedFailure.model_validate({name: value for name, value in entry.items() if value})
    except ValidationError as error:
        field, problem = first_problem(error)
        raise ConfigError(problem, key=f"entry {number}: {field}", source=str(path)) from None
