"""How a session is to be run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trafficlight.results.events import Expected
from trafficlight.results.reporters.host import Reporter
from trafficlight.suites.selection import SessionRequest


@dataclass(frozen=True, slots=True)
class Options:
    """How a session is to be run.

    :param exit_first: whether the first failure or error ends it.
    :param deflake: how often a case that failed is tried again.
    :param expected: why a case is expected to fail, by its id; None for those that are not.
    :param command: how it was asked for, for the record.
    :param configuration: the settings in force, without secrets.
    :param seed: of the sample, if one was drawn.
    :param deadline: seconds that the session may take; None for any time.
    :param interruptions: how often in a row a case may be cut off by its coordinator; None for any number.
    :param reporters: plug-ins that are told how it goes.
    :param request: what was asked for, so that it can be asked for again; None where nobody knows.
    """

    exit_first: bool = False
    deflake: int = 0
    expected: Callable[[str], Expected | None] = lambda _: None
    command: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    deadline: float | None = None
    interruptions: int | None = None
    reporters: Sequence[Reporter] = ()
    request: SessionRequest | None = None
