"""A room's timeline, decrypted with the keys that have arrived."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nio import (  # type: ignore[import-untyped,unused-ignore]
    AsyncClient,
    BadEvent,
    Event,
    MegolmEvent,
    ReactionEvent,
    RedactedEvent,
    RedactionEvent,
    RoomMessage,
    UnknownBadEvent,
)
from nio.exceptions import EncryptionError  # type: ignore[import-untyped,unused-ignore]

from trafficlight.adapters.nio.identity import Shield

logger = logging.getLogger(__name__)

AnyEvent: TypeAlias = Event | BadEvent | UnknownBadEvent

_SHOWN = frozenset({"m.room.message", "m.room.encrypted"})
_KINDS = {"m.text": "text", "m.notice": "text", "m.emote": "text", "m.image": "image", "m.file": "file"}


@dataclass(slots=True)
class Message:
    """One message, as a client would show it.

    :param event_id: its event.
    :param sender: the full user id.
    :param body: its text; empty while it cannot be decrypted, and once it is redacted.
    :param encrypted: whether it was sent encrypted.
    :param sender_key: the Curve25519 key of the device that encrypted it; None while it cannot be decrypted.
    :param undecrypted: the encrypted event while it cannot be decrypted.
    :param problem: why it cannot be decrypted.
    :param content: its decrypted content.
    :param edited: whether its text was replaced.
    :param redacted: whether it was redacted.
    :param reactions: the users who reacted, by reaction.
    """

    event_id: str
    sender: str
    body: str
    encrypted: bool
    sender_key: str | None = None
    undecrypted: MegolmEvent | None = None
    problem: str = "no session"
    content: Mapping[str, Any] = field(default_factory=dict)
    edited: bool = False
    redacted: bool = False
    reactions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it shows, as in the answer of ``get_timeline``."""
        return _KINDS.get(self.content.get("msgtype", ""), "other")

    @property
    def relation(self) -> Mapping[str, Any]:
        """What it relates to."""
        relation = self.content.get("m.relates_to")
        return relation if isinstance(relation, Mapping) else {}

    def issues(self, room_encrypted: bool, shield: Shield) -> list[str]:
        """Return what a client warns about."""
        if self.undecrypted is not None:
            return ["undecryptable"]
        if not self.encrypted:
            return ["unencrypted"] if room_encrypted and not self.redacted else []
        return [] if shield == "none" or self.redacted else ["unverified device"]

    def __str__(self) -> str:
        if self.redacted:
            return f"redacted message by {self.sender}"
        if self.undecrypted is not None:
            return f"undecryptable message by {self.sender}"
        return f"{self.body!r} by {self.sender} ({'encrypted' if self.encrypted else 'unencrypted'})"


class Timeline:
    """The messages of one room, oldest first, with the edits, reactions and redactions that have arrived.

    :param room_id: the room.
    """

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.messages: list[Message] = []
        self.gap: str | None = None
        """The pagination token of messages missing from a sync; None if none are missing."""
        self._gap_at = 0
        self._known: set[str] = set()
        # What arrived about a message, which may itself arrive later.
        # By the message's id and its sender, who alone may edit it.
        self._edits: dict[tuple[str, str], Message] = {}
        self._unread_edits: list[Message] = []
        self._reactions: dict[str, ReactionEvent] = {}
        self._redacted: set[str] = set()

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

    def message(self, event_id: str) -> Message | None:
        """Return the message of an event."""
        return next((message for message in self.messages if message.event_id == event_id), None)

    def _fresh(self, events: Sequence[AnyEvent]) -> list[Message]:
        """Return the new messages among events; keep what the others say about messages."""
        fresh: list[Message] = []
        for event in events:
            event_id = getattr(event, "event_id", "")
            if event_id in self._known:
                continue
            self._known.add(event_id)
            if isinstance(event, ReactionEvent):
                self._reactions[event_id] = event
            elif isinstance(event, RedactionEvent):
                self._redacted.add(event.redacts)
                self._reactions.pop(event.redacts, None)
            else:
                message = _message(event)
                if message is not None and not self._edit(message):
                    fresh.append(message)
        self._apply(fresh)
        self._apply(self.messages)
        return fresh

    def _edit(self, message: Message) -> bool:
        """Keep a message that replaces another one, the latest of each; return whether it does."""
        if message.relation.get("rel_type") != "m.replace":
            return False
        if message.undecrypted is None:
            self._edits[str(message.relation.get("event_id")), message.sender] = message
        else:
            self._unread_edits.append(message)
        return True

    def _apply(self, messages: Sequence[Message]) -> None:
        """Change messages by what has arrived about them."""
        for message in messages:
            message.reactions = {}
            if message.event_id in self._redacted:
                message.redacted = True
            if message.redacted:
                message.body, message.undecrypted = "", None
                continue
            edit = self._edits.get((message.event_id, message.sender))
            if edit is not None and edit.encrypted >= message.encrypted:
                replacement = edit.content.get("m.new_content") or {}
                message.body, message.edited = str(replacement.get("body", "")), True
        by_id = {message.event_id: message for message in messages}
        for reaction in self._reactions.values():
            reacted = by_id.get(reaction.reacts_to)
            if reacted is not None and not reacted.redacted:
                reacted.reactions.setdefault(reaction.key, []).append(reaction.sender)

    def decrypt(self, client: AsyncClient) -> list[AnyEvent]:
        """Decrypt what could not be decrypted, after new keys arrived, and return what can be now."""
        unread, self._unread_edits = self._unread_edits, []
        read: list[AnyEvent] = []
        for message in [*self.messages, *unread]:
            if message.undecrypted is None:
                continue
            try:
                event = client.decrypt_event(message.undecrypted)
            except EncryptionError as error:
                logger.debug("%s still cannot be decrypted: %s", message.event_id, error)
                message.problem = str(error)
                continue
            read.append(event)
            clear = _message(event)
            if clear is None:  # a reaction, or what shows no message
                self.messages = [one for one in self.messages if one is not message]
                self._known.discard(message.event_id)
                self._fresh([event])
            elif clear.undecrypted is None:
                message.body, message.sender_key, message.undecrypted = clear.body, clear.sender_key, None
                message.content = clear.content
        for message in unread:
            self._edit(message)
        self._apply(self.messages)
        return read

    def describe(self, count: int = 5) -> str:
        """Describe the newest messages, for an error message."""
        if not self.messages:
            return "the timeline is empty"
        newest = "; ".join(str(message) for message in self.messages[-count:])
        return f"the timeline of {len(self.messages)} ends with: {newest}"


def _message(event: Any) -> Message | None:
    if isinstance(event, RedactedEvent):
        encrypted = event.type == "m.room.encrypted"
        shown = event.type in _SHOWN
        return Message(event.event_id, event.sender, "", encrypted, redacted=True) if shown else None
    if isinstance(event, MegolmEvent):
        # Relations are in the clear.
        content = event.source["content"]
        return Message(event.event_id, event.sender, "", encrypted=True, undecrypted=event, content=content)
    if not isinstance(event, RoomMessage):
        return None
    content = event.source["content"]
    return Message(
        event.event_id,
        event.sender,
        str(content.get("body", "")),
        encrypted=event.decrypted,
        sender_key=event.sender_key,
        content=content,
    )
