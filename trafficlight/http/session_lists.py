"""Lists of sessions for people: those in memory, and those that lie in their folders."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trafficlight.http.context import current_lab
from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.presentation import in_display_order, status_counts


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session, for lists of them.

    :ivar stands: ``running``, ``ended``, ``interrupted`` or ``abandoned``.
    :ivar counts: how many cases there are of each standing.
    :ivar seconds: how long it took; None before its end.
    """

    id: str
    stands: str
    counts: dict[str, int]
    started: datetime | None
    seconds: float | None
    command: str

    @property
    def total(self) -> int:
        """How many cases it has."""
        return sum(self.counts.values())

    @classmethod
    def of(cls, id: str, record: SessionRecord, cases: list[CaseRecord]) -> "SessionRow":
        """Return the row of a session that is in memory.

        :param cases: the cases of the record, copied at once.
        """
        ended = record.ended is not None
        stands = "interrupted" if record.interrupted else "ended" if ended else "running"
        counts = status_counts(cases, over=ended)
        took = record.seconds if ended else None
        return cls(id, stands, counts, record.started, took, record.command)

    @classmethod
    def of_head(cls, head: SessionSummary) -> "SessionRow":
        """Return the row of a session that lies in its folder."""
        counts = Counter({str(outcome): number for outcome, number in head.outcomes.items()})
        if head.standing == "abandoned":
            counts[Outcome.NOT_RUN.value] += counts.pop(Outcome.RUNNING.value, 0)
        stands = "interrupted" if head.interrupted else head.standing
        took = None
        if head.started is not None and head.ended is not None:
            took = (head.ended - head.started).total_seconds()
        return cls(head.id, stands, in_display_order(counts), head.started, took, head.command)


async def session_rows(ids: Sequence[str]) -> list[SessionRow]:
    """Return what lists say of sessions, in the order given; those that left nothing to say are left out.

    :param ids: of known sessions.
    """
    lab = current_lab()
    live = {id: lab.engine.sessions[id].record for id in ids if id in lab.engine.sessions}
    cases = {id: list(record.cases.values()) for id, record in live.items()}

    def rows() -> list[SessionRow]:
        found = []
        for id in ids:
            if id in live:
                found.append(SessionRow.of(id, live[id], cases[id]))
            elif (head := lab.past.archive.head(id)) is not None:
                found.append(SessionRow.of_head(head))
        return found

    return await asyncio.to_thread(rows)
