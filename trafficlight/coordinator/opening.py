"""How a session begins: its options, and the events with which it and its cases begin."""

import getpass
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trafficlight.coordinator.provenance import Provenance
from trafficlight.results.events import CaseElsewhere, CasePlanned, Expected, SessionStarted
from trafficlight.results.history.index import History
from trafficlight.results.reporters.host import Reporter
from trafficlight.suites.model import Case, Plan
from trafficlight.version import VERSION


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session is to be run.

    :param max_failures: how many failures and errors end it; None for no limit.
    :param deflake: how often a case that failed unexpectedly is tried again.
    :param retry_errors: how often one that ended in error is.
    :param expected: why a case is expected to fail, by its id; None for those that are not.
    :param command: how it was started, for the record.
    :param provenance: where it comes from, for the record.
    :param configuration: the settings in force, without secrets.
    :param warnings: what of the request or the settings has no effect.
    :param strict: whether unsupported cases and warnings are errors.
    :param seed: of the sample, if one was drawn.
    :param deadline: seconds that the session may take; None for no limit.
    :param interruptions: how often in a row a case may be interrupted by a killed coordinator; None for no
        limit.
    :param history: which the session is added to at its end; None for none.
    """

    max_failures: int | None = None
    deflake: int = 0
    retry_errors: int = 0
    expected: Callable[[str], Expected | None] = lambda _: None
    command: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    strict: bool = False
    seed: int | None = None
    deadline: float | None = None
    interruptions: int | None = None
    reporters: Sequence[Reporter] = ()
    history: History | None = None


def session_started(id: str, plan: Plan, options: SessionOptions) -> SessionStarted:
    """Return the first event of a session."""
    return SessionStarted(
        session=id,
        versions={"trafficlight": VERSION, "python": platform.python_version(), "platform": sys.platform},
        configuration=options.configuration,
        command=options.command,
        host=platform.node(),
        user=_user(),
        seed=options.seed,
        cases=len(plan.cases),
        warnings=options.warnings,
        strict=options.strict,
        shard=plan.shard,
        commit=options.provenance.commit,
        dirty=options.provenance.dirty,
        job=options.provenance.job,
    )


def case_planned(
    session: str, case: Case, shard: int | None, lacks: str | None, expected: Expected | None, path: str
) -> CasePlanned | CaseElsewhere:
    """Return the event of a case of the plan.

    :param shard: the other shard that it is in; None if it is in this session.
    :param lacks: why it is not meant to run here; None if it is.
    :param path: where its file is in its repository; empty if the name of the file says it.
    """
    planned: dict[str, Any] = {
        "session": session,
        "case": case.id,
        "suite": case.suite,
        "file": case.file,
        "path": path,
        "line": case.line,
        "class_name": case.class_name,
        "method": case.method,
        "clients": {role: kind.type_name for role, kind in case.clients.items()},
        "servers": {role: slot.type_name for slot in case.servers for role in slot.roles},
        "parameters": dict(case.parameters),
        "skip": case.skip or lacks,
        "skip_type": "ignored" if case.skip else "unsupported" if lacks else None,
        "expected": expected,
    }
    return CasePlanned(**planned) if shard is None else CaseElsewhere(**planned, shard=shard)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return ""
