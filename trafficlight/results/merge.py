"""One session out of the sessions that ran its shards, such as jobs of a CI system."""

import contextlib
import heapq
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trafficlight.errors import UsageError
from trafficlight.results.case import INTERRUPTED
from trafficlight.results.catalog import line_of_other
from trafficlight.results.events import (
    FINAL,
    CaseElsewhere,
    CaseEnded,
    CasePlanned,
    CaseWaits,
    Event,
    Problem,
    SessionEnded,
    SessionStarted,
    State,
    parse_event,
)
from trafficlight.results.folder import ResultsFolder, write_atomically
from trafficlight.results.history.index import History
from trafficlight.results.journal import EventLog, is_written, read_events, session_end
from trafficlight.results.record import ExitCode, SessionRecord, exit_code
from trafficlight.results.reports.junit import JunitStyle, junit_bytes
from trafficlight.results.writer import keep_history, write_reports
from trafficlight.text import single_line

# The events that are those of the whole session, not of one shard.
_OUTLINE = (SessionStarted, SessionEnded, Problem, CasePlanned, CaseElsewhere)
_OTHER = line_of_other(_OUTLINE)
# What differs between the requests of shards, or is in the event that starts their sessions.
_OWN = ("shard", "durations", "seed", "strict", "job")


@dataclass(frozen=True, slots=True)
class Shard:
    """The session of one shard, as its folder describes it.

    :param number: which shard it is, from 1.
    :param shards: how many there are.
    :param request: what it was asked to run; empty if that is not recorded.
    :param cases: every case of the plan by its id, in order; those of other shards are `CaseElsewhere`.
    :param end: how it ended; None if its coordinator was killed.
    """

    folder: ResultsFolder
    number: int
    shards: int
    started: SessionStarted
    request: Mapping[str, Any]
    cases: Mapping[str, CasePlanned | CaseElsewhere]
    problems: Sequence[Problem]
    end: SessionEnded | None

    @classmethod
    def read(cls, path: Path) -> "Shard":
        """Read how the session in a folder was planned.

        :raises UsageError: it still runs, or is no session of a shard.
        :raises OSError: its log cannot be read.
        """
        folder, started = ResultsFolder(path.resolve()), None
        if is_written(folder.events):
            raise UsageError(f"{path} is of a session that runs: wait for its end")
        cases: dict[str, CasePlanned | CaseElsewhere] = {}
        problems = []
        with folder.events.open("rb") as lines:
            for line in lines:
                match None if _OTHER.match(line) else parse_event(line):
                    case SessionStarted() as event:
                        started = event
                    case CasePlanned() | CaseElsewhere() as event:
                        cases[event.case] = event
                    case Problem() as event:
                        problems.append(event)
                    case _:
                        pass
        if started is None or started.shard is None:
            raise UsageError(f"{path} is of a session without --shard")
        request = folder.read_request() or {}
        return cls(folder, *started.shard, started, request, cases, problems, session_end(folder.events))

    def name(self, number: int) -> str:
        """Return how people name a shard of the session."""
        return f"shard {number}/{self.shards}"

    def shard_of(self, case: str) -> int:
        """Return the shard that a case of the plan is in."""
        planned = self.cases[case]
        return planned.shard if isinstance(planned, CaseElsewhere) else self.number


def check_shards(shards: Sequence[Shard]) -> None:
    """Check that sessions are shards of one plan, each another one.

    :raises UsageError: they are not; the message says what differs.
    """
    first, known = shards[0], dict[int, Shard]()
    for shard in shards:
        if difference := _difference(first, shard):
            path = shard.folder.path
            raise UsageError(f"{path} is no shard of the session of {first.folder.path}: {difference}")
        if (other := known.setdefault(shard.number, shard)) is not shard:
            raise UsageError(
                f"{other.folder.path} and {shard.folder.path} are both {shard.name(shard.number)}: name one"
            )


def _difference(first: Shard, other: Shard) -> str:
    """Return how the plan of a shard differs from that of another; empty if it does not."""
    mine, theirs = _asked(first), _asked(other)
    # Checkouts may be in different places.
    ignored = "targets" if first.cases.keys() == other.cases.keys() else ""
    for name, value in mine.items():
        if name != ignored and theirs.get(name, value) != value:
            return f"its {name} is {single_line(repr(theirs[name]))}, not {single_line(repr(value))}"
    for left, right, what in ((other, first, "it has"), (first, other, "it lacks")):
        if only := [case for case in left.cases if case not in right.cases]:
            more = f" and {len(only) - 1} more" if len(only) > 1 else ""
            return f"{what} the case {only[0]}{more}"
    for case in first.cases:
        if (there := other.shard_of(case)) != (here := first.shard_of(case)):
            return f"{case} is in shard {there}, not {here}: pass the same --durations to all shards"
    return ""


def _asked(shard: Shard) -> dict[str, Any]:
    started = shard.started
    asked = {name: value for name, value in shard.request.items() if name not in _OWN}
    same = {"version": started.versions.get("trafficlight"), "number of shards": shard.shards}
    return same | {"seed": started.seed, "strict": started.strict} | asked


def merge(
    shards: Sequence[Shard], folder: ResultsFolder, history: History, command: str, job: str = ""
) -> SessionRecord:
    """Write the folder of the session that shards make. Blocks.

    Cases of a shard that is missing, or did not end, have no verdict.

    :param shards: at least one; :func:`check_shards` has checked them.
    :param folder: a new folder, see :meth:`ResultsFolder.assembled`.
    :param history: of its results folder.
    :param command: the command line, for the record.
    :param job: the link of the CI job that merges; empty for that of the first shard.
    :raises OSError: something cannot be read or written.
    """
    for shard in shards:
        for name, target in (("cases", "cases"), ("adapters", f"adapters/shard-{shard.number}")):
            if (source := shard.folder.path / name).is_dir():
                shutil.copytree(source, folder.path / target, symlinks=True, dirs_exist_ok=True)
    if request := shards[0].request:
        folder.write_request({**request, "shard": None, "durations": {}}, resumable=False)
    record = SessionRecord()
    with contextlib.closing(EventLog(folder.events)) as log:
        for event in _events(shards, record, command, job):
            numbered = replace(event, session=folder.id, sequence=record.last_sequence + 1)
            record.apply(numbered)
            log.append(numbered)
    # What can fail comes before the history, which keeps what it has.
    write_atomically(folder.junit, junit_bytes(record, JunitStyle.detect(folder.place)))
    write_reports(folder, record, keep_history(history, folder.path, record))
    return record


def _events(shards: Sequence[Shard], record: SessionRecord, command: str, job: str) -> Iterator[Event]:
    """Yield the events of the merged session; each is in the record before the next one is asked for."""
    first, present = shards[0], {shard.number: shard for shard in shards}
    started = [shard.started for shard in shards]
    began = min(one.time for one in started)
    yield replace(
        first.started,
        time=began,
        versions={name: _joined(one.versions.get(name) for one in started) for name in started[0].versions},
        command=command,
        host=_joined(one.host for one in started),
        user=_joined(one.user for one in started),
        cases=len(first.cases),
        warnings=tuple(dict.fromkeys(warning for one in started for warning in one.warnings)),
        shard=None,
        commit=_joined(one.commit for one in started),
        dirty=any(one.dirty for one in started),
        job=job or first.started.job,
        merged=tuple((shard.folder.id, shard.started.time) for shard in shards),
    )
    problems = [problem for shard in shards for problem in shard.problems]
    yield from {str(problem.content()): problem for problem in reversed(problems)}.values()
    for case, planned in first.cases.items():
        owner = present.get(first.shard_of(case))
        content = (planned if owner is None else owner.cases[case]).content()
        content.pop("shard", None)
        yield CasePlanned(time=began, case=case, **content)
    yield from heapq.merge(*map(_happened, shards), key=lambda event: event.time)
    lost = yield from _unfinished(first, present, record)
    ends = [shard.end for shard in shards if shard.end is not None]
    lost += [
        f"{shard.name(shard.number)}: {shard.end.incomplete}"
        for shard in shards
        if shard.end and shard.end.incomplete
    ]
    interrupted = any(end.interrupted for end in ends)
    code = exit_code(record, interrupted=interrupted)
    yield SessionEnded(
        time=max((end.time for end in ends), default=record.last_time or began),
        counts=record.counts,
        exit_code=int(ExitCode.LAB_ERROR if lost and code is ExitCode.SUCCESS else code),
        interrupted=interrupted,
        incomplete="; ".join(lost),
    )


def _happened(shard: Shard) -> Iterator[Event]:
    return (event for event in read_events(shard.folder.events) if not isinstance(event, _OUTLINE))


def _unfinished(
    first: Shard, present: Mapping[int, Shard], record: SessionRecord
) -> Generator[Event, None, list[str]]:
    """Yield why cases of missing and killed shards have no verdict; return what is lost."""
    waiting: dict[str, list[str]] = {}
    for case, known in record.cases.items():
        owner = present.get(first.shard_of(case))
        if owner is not None and owner.end is not None:
            continue
        why = f"{first.name(first.shard_of(case))} {'is missing' if owner is None else 'did not end'}"
        waiting.setdefault(why, [])
        attempt = known.attempt
        if attempt is not None and attempt.ended is None:
            yield CaseEnded(
                time=record.last_time or first.started.time,
                case=case,
                attempt=attempt.number,
                state=State.ERROR,
                message=f"interrupted: {why}",
                phase=INTERRUPTED,
                expected=known.expected,
            )
        elif known.retrying or known.state not in FINAL:
            waiting[why].append(case)
    for why, cases in waiting.items():
        if cases:
            yield CaseWaits(time=record.last_time or first.started.time, reason=why, cases=tuple(cases))
    return list(waiting)


def _joined(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
