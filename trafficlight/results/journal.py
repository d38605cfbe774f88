"""The append-only list of events, and its readers."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from trafficlight.clock import Clock
from trafficlight.results.events import Event

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)
Reader: TypeAlias = Callable[[Any], None]

_SECRETS = frozenset({"password", "key_backup_passphrase", "passphrase", "token", "access_token"})


def redacted(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy without the values of secrets, at any depth."""
    return {
        key: "***" if key.lower() in _SECRETS and value is not None else _redacted_value(value)
        for key, value in data.items()
    }


def _redacted_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, list | tuple):
        return [_redacted_value(item) for item in value]
    return value


class _Subscription(NamedTuple):
    reader: Reader
    kinds: Collection[type[Event]] | None
    session: str | None

    def wants(self, kind: type[Event], session: str) -> bool:
        mine = self.session is None or session in ("", self.session)
        return mine and (self.kinds is None or kind in self.kinds)


class Journal:
    """Numbers events and hands each to the readers that want it, in the order of their subscription.

    :param clock: source of timestamps.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 1
        self._subscriptions: list[_Subscription] = []
        # By kind and session; rebuilt after each change of the subscriptions.
        self._readers: dict[tuple[type[Event], str], tuple[Reader, ...]] = {}
        self._failures: dict[Reader, int] = {}  # in a row
        #: How many events of each kind were appended.
        self.counts: Counter[type[Event]] = Counter()

    def subscribe(
        self,
        reader: Reader,
        kinds: Collection[type[Event]] | None = None,
        *,
        session: str | None = None,
    ) -> Callable[[], None]:
        """Call a reader with each event from now on, and return the function that unsubscribes it.

        The reader runs on the coordinator's loop and must not block. An exception that it raises is logged.

        :param kinds: the event classes that it wants; None for all.
        :param session: the session whose events it wants, besides those of no session; None for all.
        """
        subscription = _Subscription(reader, None if kinds is None else frozenset(kinds), session)
        self._subscriptions.append(subscription)
        self._readers.clear()

        def unsubscribe() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                self._readers.clear()
                self._failures.pop(reader, None)

        return unsubscribe

    def append(self, event: E, **context: Any) -> E:
        """Record an event: set its number and time, and replace secrets in what its fields hold.

        :param context: other fields to set, such as the session.
        :return: the event as recorded.
        """
        clean: dict[str, Any] = {name: redacted(getattr(event, name)) for name in event.open_names}
        event = replace(event, sequence=self._next, time=self._clock.now(), **clean, **context)
        self._next += 1
        self.counts[type(event)] += 1
        key = (type(event), event.session)
        if (readers := self._readers.get(key)) is None:
            readers = tuple(one.reader for one in self._subscriptions if one.wants(*key))
            self._readers[key] = readers
        for reader in readers:
            try:
                reader(event)
            except Exception:
                self._failures[reader] = self._failures.get(reader, 0) + 1
                if self._failures[reader] == 1:  # a full disk fails thousands of events
                    logger.exception("a reader failed on event %d (%s)", event.sequence, event.kind)
            else:
                if self._failures and (failures := self._failures.pop(reader, 0)) > 1:
                    logger.error("a reader works again, after failing on %d events", failures)
        return event
