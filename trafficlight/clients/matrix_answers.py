"""What the actions of a Matrix client take and answer, beyond plain values."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

HistoryVisibility = Literal["shared", "invited", "joined", "world_readable"]


class HomeserverUrl(TypedDict):
    """The base URL of the client-server API, as seen from two places."""

    local: str
    local_docker: str


class TimelineEvent(TypedDict):
    """One event of a timeline, as the client shows it: edited, redacted, with its reactions.

    An adapter that cannot see a field omits it.

    :ivar user: the sender.
    :ivar message: the text; empty if redacted or undecryptable.
    :ivar event_id: the event's id.
    :ivar kind: what the event shows.
    :ivar encrypted: whether it arrived encrypted.
    :ivar undecryptable: why it cannot be decrypted, in the client's words; absent if it can.
    :ivar reactions: the users who reacted, by reaction.
    :ivar reply_to: the id of the event that it replies to.
    :ivar thread: the id of the first event of its thread.
    :ivar shield: the warning about its sender: ``grey`` if the device cannot be vouched for, ``red`` if
        something is wrong, e.g. an identity that changed after it was verified.
    :ivar read_by: the users whose read receipt is at this event.
    """

    user: str
    message: str
    e2e_issues: NotRequired[Any]
    event_id: NotRequired[str]
    kind: NotRequired[Literal["text", "image", "file", "other"]]
    encrypted: NotRequired[bool]
    undecryptable: NotRequired[str]
    edited: NotRequired[bool]
    redacted: NotRequired[bool]
    reactions: NotRequired[dict[str, list[str]]]
    reply_to: NotRequired[str]
    thread: NotRequired[str]
    shield: NotRequired[Literal["none", "grey", "red"]]
    read_by: NotRequired[list[str]]


class Member(TypedDict):
    """A member of a room, past, present or invited."""

    membership: Literal["join", "invite", "leave", "ban", "knock"]
    display_name: NotRequired[str]
    power_level: NotRequired[int]


class RoomState(TypedDict):
    """The open room, as the client sees it.

    :ivar members: by user id.
    :ivar successor: the id of the room that replaced it.
    """

    room_id: str
    name: NotRequired[str]
    topic: NotRequired[str]
    encrypted: bool
    version: NotRequired[str]
    history_visibility: NotRequired[str]
    members: dict[str, Member]
    successor: NotRequired[str]


class Invite(TypedDict):
    """An invite that waits for an answer."""

    room_id: str
    inviter: str
    name: NotRequired[str]


class MediaFile(TypedDict):
    """A file that was sent to a room.

    :ivar content: the decrypted bytes, in base64.
    """

    name: str
    content_type: str
    content: str


class DeviceInfo(TypedDict):
    """A device of the user.

    :ivar verified: whether this client trusts it, by cross-signing or by hand.
    """

    device_id: str
    display_name: NotRequired[str]
    verified: NotRequired[bool]


class VerificationState(TypedDict):
    """The latest verification, as this client sees it.

    :ivar cancel_code: e.g. ``m.user`` or ``m.mismatched_sas``, once it is cancelled.
    """

    phase: Literal["none", "requested", "ready", "started", "done", "cancelled"]
    cancel_code: NotRequired[str]


Trust = Literal["verified", "unverified", "changed", "unknown"]
"""What a client shows about a user, see :meth:`~trafficlight.clients.MatrixClient.get_trust`."""
