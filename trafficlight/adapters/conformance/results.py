"""What a check found, and how it is shown."""

import textwrap
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How a finding counts."""

    OK = "ok"
    WRONG = "wrong"
    """The wire requires it."""
    NOTE = "note"
    """Only recommended: older adapters may lack it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an adapter does right or wrong.

    :param check: the check's name, stable.
    :param level: how it counts.
    :param text: what was seen and, where it is wrong, what was expected.
    """

    check: str
    level: Level
    text: str


@dataclass(slots=True)
class Results:
    """Everything that a check found.

    :param command: what was started.
    :param findings: in the order in which they were made.
    :param output: the end of what the adapter printed.
    """

    command: str
    findings: list[Finding] = field(default_factory=list)
    output: str = ""

    def add(self, check: str, level: Level, text: str) -> None:
        """Append a finding."""
        self.findings.append(Finding(check, level, text))

    def of(self, level: Level) -> list[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level is level]

    @property
    def ok(self) -> bool:
        """Whether the adapter keeps to the wire."""
        return not self.of(Level.WRONG)

    @property
    def exit_code(self) -> int:
        """0 where the adapter keeps to the wire, 1 where it does not."""
        return 0 if self.ok else 1


def render(results: Results, width: int = 100) -> str:
    """Return the results as text for a terminal.

    :param results: what was found.
    :param width: columns to fill.
    """
    names = max((len(finding.check) for finding in results.findings), default=0)
    lines = [f"check of: {results.command}", ""]
    for finding in results.findings:
        head = f"  {finding.level:<5}  {finding.check:<{names}}  "
        lines += textwrap.wrap(
            finding.text,
            width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
        ) or [head.rstrip()]
    if not results.ok and results.output:
        lines += ["", "the end of what it printed:", textwrap.indent(results.output.rstrip(), "  | ")]
    counts = " · ".join(f"{len(results.of(level))} {level}" for level in Level)
    return "\n".join([*lines, "", counts])
