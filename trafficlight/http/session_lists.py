"""Lists of sessions for people: those in memory, and those that lie in their folders."""

import asyncio
from collections.abc import Sequence

from trafficlight.http.context import current_lab
from trafficlight.http.views import SessionRow

__all__ = ["session_rows"]


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
