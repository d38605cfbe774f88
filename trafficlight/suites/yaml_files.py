"""The YAML files that users write, read with precise errors; among them, expected failures.

::

    - case: "chat/verify_test.py::Verify[*alice=HydrogenWeb*]"
      reason: Hydrogen cannot verify
      link: https://example.org/issues/1
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trafficlight.errors import ConfigError
from trafficlight.text import first_problem, read_user_file

FAILED_CASES = "rerun-failed.yml"
"""The suite file with the failed cases of a session; it may be empty."""


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    :raises ConfigError: it cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(read_user_file(path))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        # Not str(error), which quotes the file: it may be secret.
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        reason = " ".join(str(why or error).split())
        raise ConfigError(f"is not YAML: {place}{reason}", source=str(path)) from error


def texts(value: object, *, key: str, source: Path) -> list[str]:
    """Return a list of strings that may be written as one string, or left empty.

    :raises ConfigError: it is something else.
    """
    stated = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stated, list) or not all(isinstance(one, str) and one for one in stated):
        raise ConfigError("must be a list of strings", key=key, source=str(source))
    return stated


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
    outcome: Literal["failure", "error", "any"] = Field(
        default="failure", description="What is expected; an `error` is of the lab, an adapter or the test."
    )
    sometimes: bool = Field(default=False, description="Whether they succeed sometimes.")

    def model_post_init(self, _: object, /) -> None:
        """Compile the pattern where the entry is read, which may be a thread."""
        _ = self._regex

    def matches(self, case_id: str) -> bool:
        """Return whether a case is meant, by its id without the number of a repetition."""
        meant = case_id if "[" in self.case else case_id.partition("[")[0]
        return self._regex.fullmatch(meant) is not None

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


BUILT_IN_FAILURES = tuple(
    read_expected_failures(Path(__file__).parents[1] / "tests" / "expected-failures.yml")
)
"""What the clients that come with trafficlight get wrong in the built-in suites."""
