"""The driver of matrix-nio: its actions on messages, with the data of the wire, and its program."""

import asyncio
import logging
from base64 import b64decode, b64encode
from typing import Any
from urllib.parse import quote

from nio.crypto import decrypt_attachment  # type: ignore[import-untyped,unused-ignore]

from trafficlight.adapters.nio.device import checked
from trafficlight.adapters.nio.identity import Shield
from trafficlight.adapters.nio.timeline import Message
from trafficlight.adapters.nio.verification import Verifications
from trafficlight.adapters.sdk import (
    ActionFailed,
    JsonObject,
    action,
    drive,
)


class NioAdapter(Verifications):
    """A device of one user in matrix-nio. An action returns when its effect is visible in this client."""

    @action()
    async def send_message(self, message: str) -> None:
        """Send a text to the open room; returns when the homeserver has acknowledged it.

        In an encrypted room every device of everyone who joined or is invited gets the key.
        """
        await self._logged_in.send(self._open_room.room_id, {"msgtype": "m.text", "body": message})

    @action()
    async def verify_message_in_timeline(self, message: str) -> None:
        """Wait until the open room shows a text; fails if it arrived unencrypted in an encrypted room."""
        room = self._open_room

        def see() -> Message | None:
            shown = [entry for entry in self._timeline.messages if entry.body == message]
            fine = [entry for entry in shown if entry.encrypted or not room.encrypted]
            if shown and not fine:
                raise ActionFailed(f"{message!r} arrived unencrypted in an encrypted room")
            return fine[0] if fine else None

        await self._logged_in.fill(room.room_id)
        await self._logged_in.until(see, f"the message {message!r}", self._timeline.describe)

    @action()
    async def verify_last_message_is_utd(self) -> None:
        """Wait until the last message of the open room cannot be decrypted."""

        def see() -> Message | None:
            last = self._timeline.last
            return last if last is not None and last.undecrypted is not None else None

        await self._logged_in.until(see, "an undecryptable last message", self._timeline.describe)

    @action()
    async def verify_last_message_is_trusted(self) -> None:
        """Wait until the last message of the open room is decrypted and from a device signed by its owner."""

        def see() -> Message | None:
            last = self._timeline.last
            return last if last is not None and self._shield(last) == "none" else None

        await self._know_senders()
        await self._logged_in.until(see, "a trusted last message", self._timeline.describe)

    @action()
    async def get_timeline(self) -> JsonObject:
        """Return the open room's messages, oldest first."""
        room = self._open_room
        await self._logged_in.fill(room.room_id)
        await self._know_senders()
        readers: dict[str, list[str]] = {}
        for user, receipt in room.read_receipts.items():
            readers.setdefault(receipt.event_id, []).append(user)
        entries = [
            _entry(message, room.encrypted, self._shield(message), readers.get(message.event_id, []))
            for message in self._timeline.messages
        ]
        return {"response": "got_timeline", "timeline": entries}

    @action()
    async def load_earlier(self) -> JsonObject:
        """Opening a room loads its whole history, up to a thousand messages."""
        await self._logged_in.fill(self._open_room.room_id)
        return {"response": "loaded", "more": self._timeline.gap is not None}

    @action()
    async def edit_message(self, event_id: str, message: str) -> None:
        """Replace the text of a message; returns when the homeserver has acknowledged it."""
        await self._say(
            f"* {message}",
            {"rel_type": "m.replace", "event_id": event_id},
            **{"m.new_content": {"msgtype": "m.text", "body": message}},
        )

    @action()
    async def send_reply(self, event_id: str, message: str) -> None:
        """Reply to an event; returns when the homeserver has acknowledged it."""
        await self._say(message, {"m.in_reply_to": {"event_id": event_id}})

    @action()
    async def send_in_thread(self, event_id: str, message: str) -> None:
        """Send a text to a thread; returns when the homeserver has acknowledged it."""
        await self._say(message, {"rel_type": "m.thread", "event_id": event_id})

    @action()
    async def send_reaction(self, event_id: str, key: str) -> None:
        """React to an event; returns when the homeserver has acknowledged it."""
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        await self._logged_in.send(self._open_room.room_id, {"m.relates_to": relation}, "m.reaction")

    @action()
    async def redact_event(self, event_id: str, reason: str | None = None) -> None:
        """Redact an event; returns when the homeserver has acknowledged it."""
        client, room = self._logged_in.client, self._open_room
        checked(await client.room_redact(room.room_id, event_id, reason), f"redaction of {event_id}")

    @action()
    async def send_read_receipt(self, event_id: str) -> None:
        """Mark the open room as read; returns when the homeserver has acknowledged it."""
        where = f"{quote(self._open_room.room_id)}/receipt/m.read/{quote(event_id)}"
        await self._request("POST", f"/_matrix/client/v3/rooms/{where}", {})

    @action()
    async def set_typing(self, typing: bool) -> None:
        """Start or stop typing; returns when the homeserver has acknowledged it."""
        client, room = self._logged_in.client, self._open_room
        checked(await client.room_typing(room.room_id, typing), "typing")

    @action()
    async def get_typing(self) -> JsonObject:
        """Return who else is typing."""
        own = self._logged_in.client.user_id
        return {"response": "typing", "users": [user for user in self._open_room.typing_users if user != own]}

    @action()
    async def send_file(self, name: str, content_type: str, content: str) -> None:
        """Send a file, encrypted where the room is; returns when the homeserver has acknowledged it."""
        client, room = self._logged_in.client, self._open_room
        data = b64decode(content)
        kind = "m.image" if content_type.startswith("image/") else "m.file"
        answer, keys = await client.upload(
            lambda *_: data, content_type, name, encrypt=room.encrypted, filesize=len(data)
        )
        url = checked(answer, f"upload of {name}").content_uri
        where = {"file": {**keys, "url": url}} if keys else {"url": url}
        info = {"mimetype": content_type, "size": len(data)}
        await self._logged_in.send(
            room.room_id, {"msgtype": kind, "body": name, "filename": name, "info": info, **where}
        )

    @action()
    async def get_file(self, event_id: str) -> JsonObject:
        """Download and decrypt the file of an event."""

        def see() -> Message | None:
            found = self._timeline.message(event_id)
            return found if found is not None and found.undecrypted is None else None

        device = self._logged_in
        content = (await device.until(see, f"the event {event_id}", self._timeline.describe)).content
        file = content.get("file") or {}
        url = file.get("url") or content.get("url")
        if not url:
            raise ActionFailed(f"the event {event_id} has no file")
        data = checked(await device.client.download(url), f"download of {url}").body
        if file:
            data = decrypt_attachment(data, file["key"]["k"], file["hashes"]["sha256"], file["iv"])
        shown = {
            "name": content.get("filename") or content["body"],
            "content_type": (content.get("info") or {}).get("mimetype", "application/octet-stream"),
            "content": b64encode(data).decode(),
        }
        return {"response": "got_file", "file": shown}

    async def _know_senders(self) -> None:
        await self._logged_in.know({message.sender for message in self._timeline.messages})

    def _shield(self, message: Message) -> Shield:
        return self._logged_in.identities.shield(message.sender, message.sender_key)

    async def _say(self, body: str, relation: JsonObject, **content: Any) -> None:
        await self._logged_in.send(
            self._open_room.room_id, {"msgtype": "m.text", "body": body, "m.relates_to": relation, **content}
        )


def _entry(message: Message, room_encrypted: bool, shield: Shield, readers: list[str]) -> JsonObject:
    """Return a message in the form of the response of `get_timeline`."""
    relation = message.relation
    entry: JsonObject = {
        "user": message.sender,
        "message": message.body,
        "e2e_issues": message.issues(room_encrypted, shield),
        "event_id": message.event_id,
        "kind": message.kind,
        "encrypted": message.encrypted,
        "edited": message.edited,
        "redacted": message.redacted,
        "reactions": message.reactions,
        "shield": shield,
        "read_by": readers,
    }
    if message.undecrypted is not None:
        entry["undecryptable"] = message.problem
    if "m.in_reply_to" in relation and not relation.get("is_falling_back"):
        entry["reply_to"] = relation["m.in_reply_to"]["event_id"]
    if relation.get("rel_type") == "m.thread":
        entry["thread"] = relation["event_id"]
    return entry


if __name__ == "__main__":
    # It warns about every new device, and every message whose key has not arrived yet.
    logging.getLogger("nio.crypto").setLevel(logging.ERROR)
    asyncio.run(drive(NioAdapter))
