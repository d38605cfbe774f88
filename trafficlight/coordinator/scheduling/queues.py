"""The cases of a session that wait, in queues of those that need the same."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trafficlight.coordinator.scheduling.inventory import type_key
from trafficlight.suites.model import Case


@dataclass(slots=True)
class Entry:
    """A case on its way through a session.

    :param order: its place in the plan.
    :param since: when it began to wait, on the monotonic clock.
    :param attempt: the number of its next attempt, from 1.
    :param failures: how many attempts before came to a verdict that was not good.
    """

    case: Case
    order: int
    since: float
    attempt: int = 1
    failures: int = 0


@dataclass(slots=True)
class Queue:
    """The waiting cases that need the same: what keeps one back keeps all of them back.

    :ivar entries: by case id, in the order in which they are served.
    :ivar reason: why the first of them waits.
    :ivar told: the reason that the journal was last told.
    :ivar told_at: when that was, on the monotonic clock.
    :ivar unfilled_since: since when all that there is, free and busy, could not fill it; None while it could.
    :ivar unplayable_since: the same, as far as the adapters are concerned.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    reason: str = ""
    told: str = ""
    told_at: float = float("-inf")
    unfilled_since: float | None = None
    unplayable_since: float | None = None

    def waits(self, reason: str, now: float, *, unsatisfiable_since: bool, no_adapter_since: bool) -> None:
        """Note why its first case waits.

        :param unfilled: whether all that there is, free and busy, could not fill it.
        :param unplayable: whether that is for the adapters.
        """
        self.reason = reason
        self.unfilled_since = _since(self.unfilled_since, now, unsatisfiable_since)
        self.unplayable_since = _since(self.unplayable_since, now, no_adapter_since)

    def unfilled_for(self, now: float) -> float:
        """Return for how many seconds all that there is could not fill it."""
        return 0.0 if self.unfilled_since is None else now - self.unfilled_since

    def anew(self, now: float) -> None:
        """Count from now on for how long nobody could play it."""
        self.unplayable_since = _since(None, now, self.unplayable_since is not None)

    def expired_deadline(self, now: float, deadline: float, for_adapters: float) -> float | None:
        """Return the deadline that it has waited for in vain; None where it may wait on.

        :param deadline: seconds for which it may be unfilled.
        :param for_adapters: seconds for which it may be unplayable.
        """
        for since, seconds in ((self.unplayable_since, for_adapters), (self.unfilled_since, deadline)):
            if since is not None and now - since >= seconds:
                return seconds
        return None

    def news(self, now: float, pause: float) -> str | None:
        """Return the reason, if it is time to tell it: it changed, and `pause` seconds have gone."""
        if not self.entries or self.reason == self.told or now - self.told_at < pause:
            return None
        self.told, self.told_at = self.reason, now
        return self.reason


class Queues:
    """All waiting cases of a session."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Any, ...], Queue] = {}
        self._of: dict[str, Queue] = {}

    def __iter__(self) -> Iterator[Queue]:
        return iter(tuple(self._queues.values()))

    def __contains__(self, case: str) -> bool:
        return case in self._of

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def cases(self) -> list[str]:
        """The ids of the cases that wait."""
        return list(self._of)

    def add(self, entry: Entry) -> None:
        """Let a case wait."""
        queue = self._queues.setdefault(_needs(entry.case), Queue())
        queue.entries[entry.case.id] = entry
        self._of[entry.case.id] = queue

    def take(self, case: str) -> Entry:
        """Return a waiting case, which waits no longer.

        :raises KeyError: it does not wait.
        """
        return self._of.pop(case).entries.pop(case)

    def start(self, case: str) -> Entry:
        """Return a waiting case that can start, which shows that somebody can play its roles.

        :raises KeyError: it does not wait.
        """
        self._of[case].unfilled_since = self._of[case].unplayable_since = None
        return self.take(case)

    def of(self, case: str) -> Queue:
        """Return the queue that a case waits in.

        :raises KeyError: it does not wait.
        """
        return self._of[case]

    def first(self, most: int) -> list[Entry]:
        """Return the first cases of every queue, at most so many of each."""
        return [entry for queue in self for entry in itertools.islice(queue.entries.values(), max(1, most))]


def _since(before: float | None, now: float, holds: bool) -> float | None:
    if not holds:
        return None
    return now if before is None else before


def server_types(case: Case) -> tuple[str, ...]:
    """Return the name of the server type of every homeserver that a case needs."""
    return tuple(
        spec.type_name for slot in case.servers for _, spec in zip(slot.roles, slot.homeservers, strict=False)
    )


def _needs(case: Case) -> tuple[Any, ...]:
    """Return what a case needs, the same for all that need the same."""
    kinds = sorted(kind.name() for kind in case.clients.values())
    types = frozenset(type_key(kind) for kind in case.clients.values())
    return (*kinds, types, *server_types(case))
