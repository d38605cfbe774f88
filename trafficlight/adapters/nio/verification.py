"""The actions of the nio adapter on verifications by emoji: with users in rooms, and between own devices."""

import logging
import time
from typing import Annotated, Any
from uuid import uuid4

from nio import ToDeviceMessage  # type: ignore[import-untyped,unused-ignore]
from pydantic import Field

from trafficlight.adapters.nio.account import QUERY, full_id
from trafficlight.adapters.nio.device import checked
from trafficlight.adapters.nio.identity import signed
from trafficlight.adapters.nio.rooms import Rooms
from trafficlight.adapters.nio.sas import SAS, Party, Sent, Verification
from trafficlight.adapters.sdk import ActionFailed, JsonObject, action

_PREFIX = "m.key.verification."
_REQUEST = f"{_PREFIX}request"

logger = logging.getLogger(__name__)


class Verifications(Rooms):
    """What a device does about verifications."""

    _verification: Verification | None = None

    @action()
    async def start_crosssign(self, user_id: Annotated[str | None, Field(alias="userId")] = None) -> None:
        """Ask for a verification: another user in the open room, or the own devices by messages to them."""
        device = self._logged_in
        own, device_id = device.client.user_id, device.client.device_id
        asking: JsonObject = {"from_device": device_id, "methods": [SAS]}
        if user_id is None:
            flow_id = str(uuid4())
            self._verification = Verification(flow_id, self._own_party(), own, asked=True)
            await device.know([own])
            asking |= {"timestamp": int(time.time() * 1000), "transaction_id": flow_id}
            others = [one.id for one in device.client.device_store.active_user_devices(own)]
            await self._to_devices(own, [one for one in others if one != device_id], _REQUEST, asking)
            return
        other, room_id = full_id(user_id), self._open_room.room_id
        asking |= {"msgtype": _REQUEST, "body": f"{own} asks to verify each other by emoji", "to": other}
        flow_id = await device.send(room_id, asking)
        self._verification = Verification(flow_id, self._own_party(), other, asked=True, room_id=room_id)

    @action()
    async def accept_crosssign(self) -> None:
        """Wait for a request, accept it and start; returns when there are emoji."""

        def requested() -> Verification | None:
            found = self._verification
            return found if found is not None and not found.asked and found.phase == "requested" else None

        verification = await self._logged_in.until(requested, "a verification request", self._phase)
        await self._send(verification, verification.accept())
        if verification.room_id is not None:
            # A client may take two events of one sync in any order: start when the first has arrived.
            await self._logged_in.until(
                lambda: verification.is_ready or None, "the acceptance in its room", self._phase
            )
        await self._send(verification, verification.start())
        await self._with_emoji()

    @action()
    async def get_emoji(self) -> JsonObject:
        """Return the emoji of the verification; waits for them."""
        return {"response": "got_emoji", "emoji": (await self._with_emoji()).emoji}

    @action()
    async def verify_crosssign_emoji(self) -> None:
        """Say that the emoji match; returns when the verification is done, and what it confirms is signed."""
        verification = await self._with_emoji()
        await self._send(verification, verification.confirm())

        def done() -> bool | None:
            _not_cancelled(verification)
            return verification.phase == "done" or None

        await self._logged_in.until(done, "the verification to end", self._phase)
        await self._sign(verification)

    @action()
    async def reject_emoji(self) -> None:
        """Say that the emoji do not match."""
        verification = await self._with_emoji()
        await self._send(verification, verification.cancel("m.mismatched_sas", "the emoji do not match"))

    @action()
    async def cancel_verification(self) -> None:
        """Cancel the verification."""

        def pending() -> Verification | None:
            found = self._verification
            return found if found is not None and found.phase not in ("done", "cancelled") else None

        verification = await self._logged_in.until(pending, "a verification", self._phase)
        await self._send(verification, verification.cancel("m.user", "cancelled by the user"))

    @action()
    async def get_verification(self) -> JsonObject:
        """Return the state of the latest verification."""
        found = self._verification
        shown = {"phase": "none" if found is None else found.phase}
        if found is not None and found.cancel_code:
            shown["cancel_code"] = found.cancel_code
        return {"response": "got_verification", "verification": shown}

    @action()
    async def verify_trusted_device(self) -> None:
        """Check that the other member of the open room is verified; without one, that the own user is."""
        own = self._logged_in.client.user_id
        members = [] if self._room_id is None else list(self._open_room.users)
        user = next((member for member in members if member != own), own)
        trust = (await self.get_trust(user))["trust"]
        if trust != "verified":
            raise ActionFailed(f"expected {user} to be verified; they are {trust}")

    async def _take_event(self, event: JsonObject, room_id: str | None) -> None:
        """Take an event of a sync that is about a verification."""
        kind, content = str(event.get("type", "")), event.get("content")
        if not isinstance(content, dict):
            return
        if kind == "m.room.message" and content.get("msgtype") == _REQUEST:
            kind = _REQUEST
        if not kind.startswith(_PREFIX):
            return
        try:
            await self._take(kind.removeprefix(_PREFIX), event, content, room_id)
        except Exception:  # one event must not end the sync
            logger.exception("%s of %s", kind, event.get("sender"))

    async def _take(self, kind: str, event: JsonObject, content: JsonObject, room_id: str | None) -> None:
        own, sender = self._logged_in.client.user_id, event["sender"]
        if kind == "request":
            if SAS in content["methods"] and (room_id is None or content.get("to") == own):
                flow_id = content["transaction_id"] if room_id is None else event["event_id"]
                asked = Verification(flow_id, self._own_party(), sender, asked=False, room_id=room_id)
                asked.other = await self._party(sender, content["from_device"])
                self._verification = asked
            return
        verification = self._verification
        flow = content["transaction_id"] if room_id is None else content["m.relates_to"]["event_id"]
        if verification is None or (verification.flow_id, verification.room_id) != (flow, room_id):
            return
        if room_id is not None and sender == own:
            verification.is_ready |= kind == "ready"
        elif sender == verification.user_id:
            if kind in ("ready", "start") and verification.other is None:
                verification.other = await self._party(sender, content["from_device"])
                await self._call_off(verification)
            await self._send(verification, verification.receive(kind, content))

    async def _call_off(self, verification: Verification) -> None:
        """Tell the other devices that were asked that one has accepted."""
        if verification.room_id is None and verification.other is not None:
            user, accepted = verification.user_id, verification.other.device_id
            known = [one.id for one in self._logged_in.client.device_store.active_user_devices(user)]
            asked = [one for one in known if one not in (accepted, verification.own.device_id)]
            content = {"code": "m.accepted", "reason": "another device has accepted it"}
            content["transaction_id"] = verification.flow_id
            await self._to_devices(user, asked, f"{_PREFIX}cancel", content)

    async def _send(self, verification: Verification, sent: Sent) -> None:
        for kind, content in sent:
            if verification.room_id is not None:
                await self._logged_in.send(verification.room_id, content, _PREFIX + kind)
            elif verification.other is not None:
                to = [verification.other.device_id]
                await self._to_devices(verification.user_id, to, _PREFIX + kind, content)

    async def _to_devices(self, user_id: str, device_ids: list[str], kind: str, content: JsonObject) -> None:
        for device_id in device_ids:
            message = ToDeviceMessage(kind, user_id, device_id, content)
            checked(await self._logged_in.client.to_device(message), kind)

    async def _with_emoji(self) -> Verification:
        def shown() -> Verification | None:
            found = self._verification
            if found is None:
                return None
            _not_cancelled(found)
            return found if found.emoji is not None else None

        return await self._logged_in.until(shown, "emoji", self._phase)

    async def _sign(self, verification: Verification) -> None:
        """Sign what the other side has vouched for: its user's identity, or the own user's other device."""
        device, user, other = self._logged_in, verification.user_id, verification.other
        identity, confirmed = device.identities.own, verification.confirmed or frozenset()
        if identity is None or other is None:
            return  # a device without the private keys signs nothing
        if user == device.client.user_id:
            await self._sign_device(other.device_id)
            return
        master = (await self._request("POST", QUERY, {"device_keys": {user: []}}))["master_keys"].get(user)
        key_id = next(iter(master["keys"])) if master else ""
        if key_id in confirmed:
            value = signed(master, device.client.user_id, identity.user_signing)
            await self._upload_signature(user, key_id.removeprefix("ed25519:"), value)

    def _own_party(self) -> Party:
        client, identity = self._logged_in.client, self._logged_in.identities.own
        keys = {f"ed25519:{client.device_id}": client.olm.account.identity_keys["ed25519"]}
        master = None if identity is None else self._logged_in.identities.master(client.user_id)
        return Party(client.user_id, client.device_id, keys | _master(master))

    async def _party(self, user_id: str, device_id: str) -> Party:
        """Return another side, as the homeserver has it."""
        device = self._logged_in
        await device.know([user_id])
        keys = {f"ed25519:{device_id}": device.client.device_store[user_id][device_id].ed25519}
        return Party(user_id, device_id, keys | _master(device.identities.master(user_id)))

    def _phase(self) -> str:
        found = self._verification
        return f"there is a verification that is {'not begun' if found is None else found.phase}"


def _master(key: str | None) -> dict[str, Any]:
    return {} if key is None else {f"ed25519:{key}": key}


def _not_cancelled(verification: Verification) -> None:
    if verification.phase == "cancelled":
        raise ActionFailed(f"the verification was cancelled: {verification.cancel_code}")
