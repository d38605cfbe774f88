"""What changed between sessions: new, known, fixed and slower cases, other versions, other measurements."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trafficlight.errors import UsageError
from trafficlight.results.case import Outcome
from trafficlight.results.folder import write_atomically
from trafficlight.results.history.statistics import CaseHistory, Past
from trafficlight.results.history.verdicts import BAD, GOOD, CaseVerdict, Series, read_verdicts, verdicts_of
from trafficlight.results.record import SessionRecord
from trafficlight.text import count, duration

FILE = "changes.json"
"""In a session's folder: what changed since the sessions before it."""

Kind = Literal["new", "known", "fixed", "slower"]
KINDS: tuple[Kind, ...] = ("new", "known", "fixed", "slower")

# A case is slower if it takes so many times as long, and so many seconds more.
_SLOWER, _SECONDS = 2.0, 1.0
# A measurement moved if it is outside of all earlier ones, at least so many, and off their median by this
# share; compared with fewer, by the larger share.
_ENOUGH, _OFF, _FAR_OFF = 5, 0.2, 0.5


_TESTS = "tests"  # in place of a type, for their commit


class Change(BaseModel):
    """A case that ended otherwise than before, or that still fails.

    :ivar kind: ``new``: it fails and did not before, or was not there; ``known``: it failed before, too;
        ``fixed``: it succeeds and failed before; ``slower``: it succeeds as before.
    :ivar outcome: how it ended.
    :ivar signature: of its failure; of the earlier one if it is fixed.
    :ivar seconds: how long it took.
    :ivar before: how it ended before; empty if it was not there.
    :ivar before_seconds: how long it typically took before, if it succeeded.
    :ivar since: the session since which it fails, or failed if it is fixed; empty if that is unknown.
    :ivar sessions: for how many sessions in a row, without this one.
    :ivar revision: the commit of the tests in the session `since`; empty if unknown.
    :ivar other_failure: whether it failed before with another signature.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    case: str
    outcome: Outcome
    signature: str = ""
    seconds: float = 0.0
    before: Outcome | None = None
    before_seconds: float | None = None
    since: str = ""
    sessions: int = 0
    revision: str = ""
    other_failure: bool = False

    @property
    def text(self) -> str:
        """What of it changed, in one line."""
        match self.kind:
            case "new" | "known":
                return f"{self.signature or 'no message'}, {self.past}"
            case "fixed":
                return f"failed {self.past}: {self.signature or 'no message'}"
            case "slower":
                return f"{duration(self.seconds)}, {self.past}"

    @property
    def past(self) -> str:
        """What it was before."""
        since = f"since {at(self.since, self.revision)} ({count(self.sessions, 'session')})"
        match self.kind:
            case "new":
                return f"{self.before} before" if self.before is not None else "not there before"
            case "known":
                return since + (", before with another message" if self.other_failure else "")
            case "fixed":
                return since
            case "slower":
                return f"{duration(self.before_seconds)} before"


class VersionChange(BaseModel):
    """A client or homeserver that had other versions before, or ``tests``, with their commits.

    :ivar new_failures: how many of the new failures have it in a role.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    new_failures: int = 0

    @property
    def text(self) -> str:
        """How it changed, in one line."""
        texts = (", ".join(filter(None, side)) or "no version" for side in (self.before, self.after))
        failures = f"   in {count(self.new_failures, 'new failure')}" if self.new_failures else ""
        return f"{' → '.join(texts)}{failures}"


class Shift(BaseModel):
    """A measurement of a case that is off what it was.

    :ivar what: ``p50`` or ``p95``.
    :ivar before: the median of what it was.
    """

    model_config = ConfigDict(frozen=True)

    case: str
    name: str
    what: Literal["p50", "p95"]
    before: float
    after: float
    unit: str = ""

    @property
    def text(self) -> str:
        """How it moved, in one line."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {self.what} {self.after:g}{unit}, {self.before:g}{unit} before"


class Changes(BaseModel):
    """What changed in a session.

    :ivar against: what it is compared with: the id of a session, or the number of earlier sessions.
    :ivar revision: the commit of the tests in that session; empty if unknown, or of several sessions.
    :ivar added: cases that were not there before; of two sessions only, as are those that are gone.
    """

    model_config = ConfigDict(frozen=True)

    against: str
    revision: str = ""
    cases: tuple[Change, ...] = ()
    versions: tuple[VersionChange, ...] = ()
    shifts: tuple[Shift, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def since(self) -> dict[str, str]:
        """Since which session the cases that fail do so; ``new`` for those that did not before."""
        return {one.case: one.since or "new" for one in self.cases if one.kind in ("new", "known")}

    @property
    def revisions(self) -> dict[str, str]:
        """The commits of the tests, as far as known, in the sessions since which cases fail."""
        return {one.since: one.revision for one in self.cases if one.revision}

    def of(self, kind: Kind) -> list[Change]:
        """Return the cases of one kind."""
        return [change for change in self.cases if change.kind == kind]

    @property
    def sentence(self) -> str:
        """The numbers in one line."""
        numbers: Counter[str] = Counter(change.kind for change in self.cases)
        texts = {
            "new": count(numbers["new"], "new failure"),
            "known": f"{numbers['known']} known",
            "fixed": f"{numbers['fixed']} fixed",
            "slower": f"{numbers['slower']} slower",
            "moved": f"{count(len(self.shifts), 'measurement')} moved",
            "added": f"{count(len(self.added), 'case')} added",
            "removed": f"{count(len(self.removed), 'case')} gone",
        }
        numbers |= Counter(moved=len(self.shifts), added=len(self.added), removed=len(self.removed))
        shown = [text for what, text in texts.items() if numbers[what] or what in ("new", "fixed")]
        return f"against {at(self.against, self.revision)}: {' · '.join(shown)}"


def at(session: str, revision: str) -> str:
    """Return the name of a session with the commit of its tests, if that is known."""
    return f"{session} at {revision}" if revision else session


def compare(
    before: Mapping[str, CaseHistory], after: Sequence[CaseVerdict], against: str, revision: str = ""
) -> Changes:
    """Compare the verdicts of a session with the history of its cases.

    :param before: by case, without this session; an entry may be missing.
    :param revision: the commit of the tests in this session; empty if unknown.
    """
    none = CaseHistory(())
    pairs = [(before.get(verdict.case, none), verdict) for verdict in after]
    changes = [change for history, verdict in pairs if (change := _change(history, verdict)) is not None]
    new = {change.case for change in changes if change.kind == "new"}
    return Changes(
        against=against,
        cases=tuple(sorted(changes, key=lambda change: KINDS.index(change.kind))),
        versions=tuple(_version_changes(pairs, new, revision)),
        shifts=tuple(shift for history, verdict in pairs for shift in _shifts(history, verdict)),
    )


def changes_in(record: SessionRecord, before: Mapping[str, CaseHistory]) -> Changes | None:
    """Return what changed in a session since earlier ones; None if none of its cases ran before.

    :param before: by case, without this session.
    """
    if not before:
        return None
    sessions = {(past.lab, past.session) for history in before.values() for past in history.past}
    return compare(before, verdicts_of(record), count(len(sessions), "earlier session"), record.revision)


def compare_sessions(
    before: tuple[SessionRecord, Sequence[CaseVerdict]], after: tuple[SessionRecord, Sequence[CaseVerdict]]
) -> Changes:
    """Compare two sessions, see :func:`read_verdicts`."""
    (old, earlier), (new, verdicts) = before, after
    histories = {
        verdict.case: CaseHistory([Past("", old.id, old.started, old.host, verdict, old.revision)])
        for verdict in earlier
    }
    changes = compare(histories, verdicts, old.id, new.revision)
    return changes.model_copy(
        update={
            "revision": old.revision,
            "added": tuple(case for case in new.cases if case not in old.cases),
            "removed": tuple(case for case in old.cases if case not in new.cases),
        }
    )


def compare_folders(before: Path, after: Path) -> Changes:
    """Compare the sessions in two folders; a second or so for 10,000 cases.

    :raises UsageError: one of them has no events.
    """
    return compare_sessions(_read(before), _read(after))


def _read(folder: Path) -> tuple[SessionRecord, list[CaseVerdict]]:
    try:
        record, verdicts = read_verdicts(folder)
    except OSError as error:
        raise UsageError(f"{folder} is not the folder of a session: {error.strerror or error}") from error
    if not record.last_sequence:
        raise UsageError(f"{folder} is not the folder of a session: its events.jsonl has no events")
    return record, verdicts


def write_changes(folder: Path, changes: Changes) -> None:
    """Write ``changes.json`` into a session's folder.

    :raises OSError: it cannot be written.
    """
    write_atomically(folder / FILE, changes.model_dump_json(indent=2, exclude_defaults=True).encode() + b"\n")


def read_changes(folder: Path) -> Changes | None:
    """Read ``changes.json`` of a session's folder; None if there is none, or it is of another version."""
    try:
        return Changes.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None


def _change(history: CaseHistory, now: CaseVerdict) -> Change | None:
    last = history.past[0].verdict if history.past else None
    failing = history.failing
    typical = history.typical_seconds
    kind: Kind
    if now.outcome in BAD:
        kind = "known" if failing else "new"
    elif now.outcome in GOOD and failing:
        kind = "fixed"
    elif now.outcome in GOOD and typical is not None and _is_slower(typical, now.seconds):
        kind = "slower"
    else:
        return None
    return Change(
        kind=kind,
        case=now.case,
        outcome=now.outcome,
        signature=last.signature if last is not None and kind == "fixed" else now.signature,
        seconds=now.seconds,
        before=last.outcome if last is not None else None,
        before_seconds=typical,
        since=failing[-1].session if failing else "",
        sessions=len(failing),
        revision=failing[-1].revision if failing else "",
        other_failure=kind == "known" and now.signature not in {one.verdict.signature for one in failing},
    )


def _is_slower(before: float, now: float) -> bool:
    return now > _SLOWER * before and now > before + _SECONDS


def _version_changes(
    pairs: Iterable[tuple[CaseHistory, CaseVerdict]], new: set[str], revision: str
) -> Iterable[VersionChange]:
    before: dict[str, set[str]] = {}
    after: dict[str, set[str]] = {}
    failures: Counter[str] = Counter()
    for history, verdict in pairs:
        if not history.past:
            continue
        for versions, found in ((history.past[0].verdict.versions, before), (verdict.versions, after)):
            for text in versions.values():
                kind, _, version = text.partition(" ")
                found.setdefault(kind, set()).add(version)
        if revision and (was := history.past[0].revision):
            before.setdefault(_TESTS, set()).add(was)
            after[_TESTS] = {revision}
        if verdict.case in new:
            failures.update({_TESTS, *(text.partition(" ")[0] for text in verdict.versions.values())})
    for kind in sorted(before.keys() & after.keys()):
        if before[kind] != after[kind]:
            yield VersionChange(
                type=kind,
                before=tuple(sorted(before[kind])),
                after=tuple(sorted(after[kind])),
                new_failures=failures[kind],
            )


def _shifts(history: CaseHistory, now: CaseVerdict) -> Iterable[Shift]:
    earlier: dict[tuple[str, str], list[Series]] = {}
    for one in history.past:
        for series in one.verdict.measurements:
            earlier.setdefault((series.name, series.unit), []).append(series)
    for series in now.measurements:
        if known := earlier.get((series.name, series.unit)):
            numbers: tuple[tuple[Literal["p50", "p95"], float, list[float]], ...] = (
                ("p50", series.p50, [one.p50 for one in known]),
                ("p95", series.p95, [one.p95 for one in known]),
            )
            for what, value, values in numbers[: 2 if series.number > 1 else 1]:
                if _moved(values, value):
                    yield Shift(
                        case=now.case,
                        name=series.name,
                        unit=series.unit,
                        what=what,
                        before=median(values),
                        after=value,
                    )


def _moved(values: Sequence[float], now: float) -> bool:
    if len(values) < _ENOUGH:
        return abs(now - median(values)) > _FAR_OFF * abs(median(values))
    return not min(values) <= now <= max(values) and abs(now - median(values)) > _OFF * abs(median(values))
