"""The append-only list of events, and those who read along."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from trafficlight.clock import Clock
from trafficlight.results.events import Event, EventKind

logger = logging.getLogger(__name__)

Reader: TypeAlias = Callable[[Event], None]

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


class Journal:
    """Gives events their place and time, and hands each to every reader at once, in order.

    :param clock: where timestamps come from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 1
        self._readers: list[Reader] = []
        self._failures: dict[Reader, int] = {}  # in a row

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """Let a reader see every event from now on; return what ends that.

        A reader is called in the coordinator's loop and must not wait. One that raises is logged and stays.
        """
        self._readers.append(reader)

        def unsubscribe() -> None:
            if reader in self._readers:
                self._readers.remove(reader)
                self._failures.pop(reader, None)

        return unsubscribe

    def append(
        self,
        kind: EventKind,
        *,
        session: str = "",
        case: str | None = None,
        attempt: int | None = None,
        role: str | None = None,
        adapter: str | None = None,
        **data: Any,
    ) -> Event:
        """Record that something happened, without the secrets in its data."""
        event = Event(
            sequence=self._next,
            time=self._clock.now(),
            kind=kind,
            session=session,
            case=case,
            attempt=attempt,
            role=role,
            adapter=adapter,
            data=redacted(data),
        )
        self._next += 1
        for reader in tuple(self._readers):
            try:
                reader(event)
            except Exception:
                self._failures[reader] = self._failures.get(reader, 0) + 1
                if self._failures[reader] == 1:  # a full disk fails thousands of events
                    logger.exception("a reader of the journal failed on event %d (%s)", event.sequence, kind)
            else:
                if self._failures and (failures := self._failures.pop(reader, 0)) > 1:
                    logger.error("a reader of the journal failed on %d events, and goes on", failures)
        return event
