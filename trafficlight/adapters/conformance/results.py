"""What a check does and finds, and how it is shown."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from trafficlight.protocol import JsonObject


@dataclass(frozen=True, slots=True)
class Homeserver:
    """A homeserver to check actions on.

    :param cs_api: the base URL of its client-server API; registration is open.
    :param name: its server name.
    """

    cs_api: str
    name: str


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What a check does.

    :param action: an action that it can perform at any time; by default the first that it declares.
    :param data: the parameters of the action; by default its example.
    :param examples: example data by action; actions without one are sent without data.
    :param hold: seconds that polls are held; coordinators hold up to 28.
    :param startup: seconds until a registration, for which an adapter may start a client.
    :param grace: seconds for everything else, such as an action without a homeserver.
    :param idle_delay: seconds that an idle answer asks to wait for the next poll.
    :param away: seconds that the coordinator is away when it restarts.
    :param token: a shared registration token to require; it is handed over as ``TRAFFICLIGHT_ADAPTER_TOKEN``.
    :param homeserver: where to check that actions are true; by default that is not checked.
    """

    action: str | None = None
    data: JsonObject | None = None
    examples: Mapping[str, JsonObject] = field(default_factory=dict)
    hold: float = 3.0
    startup: float = 60.0
    grace: float = 10.0
    idle_delay: float = 0.5
    away: float = 1.0
    token: str | None = None
    homeserver: Homeserver | None = None


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
