"""A room's timeline, decrypted with the keys that have arrived."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from nio import (  # type: ignore[import-untyped,unused-ignore]
    AsyncClient,
    BadEvent,
    Event,
    MegolmEvent,
    RoomMessage,
    UnknownBadEvent,
)
from nio.exceptions import EncryptionError  # type: ignore[import-untyped,unused-ignore]

logger = logging.getLogger(__name__)

AnyEvent: TypeAlias = Event | BadEvent | UnknownBadEvent


@dataclass(slots=True)
class Message:
    """One message, as a client would show it.

    :param event_id: its event.
    :param sender: the full user id.
    :param body: its text; empty while it cannot be decrypted.
    :param encrypted: whether it was sent encrypted.
    :param verified: whether its sender's device is verified; False while it cannot be decrypted.
    :param undecrypted: the encrypted event while it cannot be decrypted.
    """

    event_id: str
    sender: str
    body: str
    encrypted: bool
    verified: bool = False
    undecrypted: MegolmEvent | None = None

    def issues(self, room_encrypted: bool) -> list[str]:
        """Return what a client warns about."""
        if self.undecrypted is not None:
            return ["undecryptable"]
        if not self.encrypted:
            return ["unencrypted"] if room_encrypted else []
        return [] if self.verified else ["unverified device"]

    def __str__(self) -> str:
        if self.undecrypted is not None:
            return f"undecryptable message by {self.sender}"
        how = "encrypted" if self.encrypted else "unencrypted"
        return f"{self.body!r} by {self.sender} ({how}{', verified' if self.verified else ''})"


class Timeline:
    """The messages of one room, oldest first.

    :param room_id: the room.
    """

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.messages: list[Message] = []
        self.gap: str | None = None
        """The pagination token of messages missing from a sync; None if none are missing."""
        self._gap_at = 0
        self._known: set[str] = set()

    @property
    def last(self) -> Message | None:
        """The newest message."""
        return self.messages[-1] if self.messages else None

    def take(self, events: Sequence[AnyEvent], gap: str | None = None) -> None:
        """Append the messages of a sync; other events and known messages are ignored.

        :param events: oldest first.
        :param gap: the pagination token, if the sync left out earlier messages.
        """
        if gap is not None:
            self.gap, self._gap_at = gap, len(self.messages)
        self.messages += self._fresh(events)

    def fill(self, events: Sequence[AnyEvent], gap: str | None) -> None:
        """Insert messages that a sync left out.

        :param events: newest first.
        :param gap: the pagination token of still earlier ones; None if none are missing.
        """
        self.messages[self._gap_at : self._gap_at] = self._fresh(list(reversed(events)))
        self.gap = gap

    def _fresh(self, events: Sequence[AnyEvent]) -> list[Message]:
        found = [message for event in events if (message := _message(event)) is not None]
        fresh = [message for message in found if message.event_id not in self._known]
        self._known.update(message.event_id for message in fresh)
        return fresh

    def decrypt(self, client: AsyncClient) -> None:
        """Retry messages that could not be decrypted, after new keys arrived."""
        for message in self.messages:
            if message.undecrypted is None:
                continue
            try:
                event = client.decrypt_event(message.undecrypted)
            except EncryptionError as error:
                logger.debug("%s still cannot be decrypted: %s", message.event_id, error)
                continue
            clear = _message(event)
            if clear is not None and clear.undecrypted is None:
                message.body, message.verified, message.undecrypted = clear.body, clear.verified, None

    def describe(self, count: int = 5) -> str:
        """Describe the newest messages, for an error message."""
        if not self.messages:
            return "the timeline is empty"
        newest = "; ".join(str(message) for message in self.messages[-count:])
        return f"the timeline of {len(self.messages)} ends with: {newest}"


def _message(event: Any) -> Message | None:
    if isinstance(event, MegolmEvent):
        return Message(event.event_id, event.sender, "", encrypted=True, undecrypted=event)
    if not isinstance(event, RoomMessage):
        return None
    body = event.source["content"].get("body", "")
    return Message(
        event.event_id, event.sender, str(body), encrypted=event.decrypted, verified=bool(event.verified)
    )
