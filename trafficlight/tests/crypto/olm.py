"""A device whose encryption a test does by hand, so that it can also do it wrong."""

import base64
import json
import secrets
from typing import Any

import nio  # type: ignore[import-untyped,unused-ignore]
import vodozemac

from trafficlight.tests.crypto.meeting import MEGOLM, request

OLM = "m.olm.v1.curve25519-aes-sha2"


async def device_of(api: nio.AsyncClient, user_id: str) -> dict[str, Any]:
    """Return the keys of a user's only device."""
    answer = await request(api, "POST", "/keys/query", {"device_keys": {user_id: []}})
    (device,) = answer["device_keys"][user_id].values()
    return dict(device)


async def claim(api: nio.AsyncClient, device: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Claim a one-time key, and return its id and the key; None if the device has none left."""
    user_id, device_id = device["user_id"], device["device_id"]
    body = {"one_time_keys": {user_id: {device_id: "signed_curve25519"}}}
    answer = (await request(api, "POST", "/keys/claim", body))["one_time_keys"]
    return next(iter(answer.get(user_id, {}).get(device_id, {}).items()), None)


async def use_up(
    api: nio.AsyncClient, device: dict[str, Any]
) -> tuple[dict[str, str], tuple[str, dict[str, Any]] | None]:
    """Claim all one-time keys of a device; return them by their ids, and its fallback key if it has one."""
    keys: dict[str, str] = {}
    while (claimed := await claim(api, device)) is not None and not claimed[1].get("fallback"):
        assert claimed[0] not in keys, f"the key {claimed[0]} was there twice"
        keys[claimed[0]] = claimed[1]["key"]
    return keys, claimed


class OlmDevice:
    """A device of a session that was opened without keys.

    :param api: the session.
    """

    def __init__(self, api: nio.AsyncClient) -> None:
        self._api = api
        self._account = vodozemac.Account()
        self._curve = self._account.curve25519_key.to_base64()
        self._ed = self._account.ed25519_key.to_base64()

    async def upload(self) -> None:
        """Upload the device's keys and a one-time key."""
        user_id, device_id = self._api.user_id, self._api.device_id
        self._account.generate_one_time_keys(1)
        keys = {f"curve25519:{device_id}": self._curve, f"ed25519:{device_id}": self._ed}
        device = {"user_id": user_id, "device_id": device_id, "algorithms": [OLM, MEGOLM], "keys": keys}
        one_time = {
            f"signed_curve25519:{key_id}": self._signed({"key": key.to_base64()})
            for key_id, key in self._account.one_time_keys.items()
        }
        body = {"device_keys": self._signed(device), "one_time_keys": one_time}
        await request(self._api, "POST", "/keys/upload", body)
        self._account.mark_keys_as_published()

    def session(self, device: dict[str, Any], key: dict[str, Any]) -> vodozemac.Session:
        """Open an Olm session with another device by one of its keys."""
        curve = vodozemac.Curve25519PublicKey.from_base64(_curve(device))
        return self._account.create_outbound_session(
            curve, vodozemac.Curve25519PublicKey.from_base64(key["key"])
        )

    async def say(
        self,
        room: str,
        text: str,
        device: dict[str, Any],
        session: vodozemac.Session,
        *,
        broken: bool = False,
    ) -> str:
        """Write in a room with a new room key that one device gets, and return the event id.

        :param session: hands the key over.
        :param broken: whether to send the message with the key damaged.
        """
        group = vodozemac.GroupSession()
        key = {
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": group.session_id,
            "session_key": group.session_key.to_base64(),
        }
        plain = {
            "type": "m.room_key",
            "content": key,
            "sender": self._api.user_id,
            "sender_device": self._api.device_id,
            "keys": {"ed25519": self._ed},
            "recipient": device["user_id"],
            "recipient_keys": {"ed25519": device["keys"][f"ed25519:{device['device_id']}"]},
        }
        kind, encrypted = session.encrypt(json.dumps(plain).encode()).to_parts()
        assert kind == 0, "only the first messages of a session use a one-time key"
        if broken:
            encrypted = encrypted[:-1] + bytes([encrypted[-1] ^ 1])
        content = {
            "algorithm": OLM,
            "sender_key": self._curve,
            "ciphertext": {_curve(device): {"type": kind, "body": _unpadded(encrypted)}},
        }
        messages = {"messages": {device["user_id"]: {device["device_id"]: content}}}
        where = f"/sendToDevice/m.room.encrypted/{secrets.token_hex(8)}"
        await request(self._api, "PUT", where, messages)
        message = {"type": "m.room.message", "room_id": room, "content": {"msgtype": "m.text", "body": text}}
        body = {
            "algorithm": MEGOLM,
            "sender_key": self._curve,
            "device_id": self._api.device_id,
            "session_id": group.session_id,
            "ciphertext": group.encrypt(json.dumps(message).encode()).to_base64(),
        }
        where = f"/rooms/{room}/send/m.room.encrypted/{secrets.token_hex(8)}"
        return str((await request(self._api, "PUT", where, body))["event_id"])

    def _signed(self, value: dict[str, Any]) -> dict[str, Any]:
        signature = self._account.sign(nio.Api.to_canonical_json(value).encode()).to_base64()
        return {
            **value,
            "signatures": {self._api.user_id: {f"ed25519:{self._api.device_id}": signature}},
        }


def _curve(device: dict[str, Any]) -> str:
    return str(device["keys"][f"curve25519:{device['device_id']}"])


def _unpadded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
