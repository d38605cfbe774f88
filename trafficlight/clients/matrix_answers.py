"""What the actions of a Matrix client take and answer, beyond plain values."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

HistoryVisibility = Literal["shared", "invited", "joined", "world_readable"]


class HomeserverUrl(TypedDict):
    """The base URL of the client-server API, as seen from two places."""

    local: str
    local_docker: str


class TimelineEvent(TypedDict):
    """A message of a timeline, as the client shows it.

    Text messages, files and what cannot be decrypted are entries; redacted ones stay, without their text.
    State events, and the reactions, edits and redactions themselves, are none: they change the entry of their
    message, also if they come before it. What the client has not loaded yet is not there: `load_earlier`
    brings it.

    An adapter that cannot see a field omits it; cases that need it do not succeed then.

    :ivar user: the sender's full user id.
    :ivar message: the text; of an edited message the new one, without the `* ` of its fallback; of a file its
        name; empty if redacted or undecryptable.
    :ivar e2e_issues: what the client warns about, in its own words, for reports only: no test reads it.
    :ivar event_id: the event's id; of an edited message that of the original.
    :ivar kind: what the event shows: a notice or emote is `text`, what is none of the others is `other`.
    :ivar encrypted: whether it arrived encrypted.
    :ivar undecryptable: why it cannot be decrypted, in the client's words; absent if it can, or is redacted.
    :ivar edited: whether its text was replaced.
    :ivar redacted: whether it was redacted.
    :ivar reactions: the full ids of the users who reacted, by reaction; without those that were redacted.
    :ivar reply_to: the id of the event that it replies to; absent where that is only the fallback of a
        thread (`is_falling_back`).
    :ivar thread: the id of the first event of its thread.
    :ivar shield: the warning that the client shows about its sender. `none`: there is none, and the sender's
        identity has signed the device; `grey`: the device cannot be vouched for; `red`: something is wrong,
        e.g. the identity changed after it was verified.
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
    """A member of a room, past, present or invited.

    :ivar display_name: in this room.
    :ivar power_level: in this room.
    """

    membership: Literal["join", "invite", "leave", "ban", "knock"]
    display_name: NotRequired[str]
    power_level: NotRequired[int]


class RoomState(TypedDict):
    """The open room, as the client sees it.

    :ivar encrypted: whether what is sent now is encrypted.
    :ivar version: the room version, such as `11`.
    :ivar history_visibility: `shared`, `invited`, `joined` or `world_readable`.
    :ivar members: by full user id, with those who left.
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
    """An invite that waits for an answer.

    :ivar inviter: the full user id.
    :ivar name: the name of the room.
    """

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
    """A device of one's own account.

    :ivar verified: whether this client trusts it, by cross-signing or by hand.
    """

    device_id: str
    display_name: NotRequired[str]
    verified: NotRequired[bool]


class VerificationState(TypedDict):
    """The latest verification, as this client sees it.

    :ivar phase: `none` if there was none; `requested` until both sides are `ready`; `started` while emoji or
        QR codes are compared.
    :ivar cancel_code: e.g. `m.user` or `m.mismatched_sas`, once it is cancelled.
    """

    phase: Literal["none", "requested", "ready", "started", "done", "cancelled"]
    cancel_code: NotRequired[str]


Trust = Literal["verified", "unverified", "changed", "unknown"]
"""What a client shows about a user, see :meth:`~trafficlight.clients.MatrixClient.get_trust`."""
