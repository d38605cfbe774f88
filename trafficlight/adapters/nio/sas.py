"""One verification by emoji, without input and output: what is received, and what is sent.

matrix-nio 0.26 knows neither requests nor rooms, and its own SAS agrees with no other client: it writes the
commitment in hexadecimal, takes the indices of emoji apart once more, and encodes the MAC as another method.

https://spec.matrix.org/latest/client-server-api/#short-authentication-string-sas-verification
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

import vodozemac
from nio import Api  # type: ignore[import-untyped,unused-ignore]
from nio.crypto import Sas  # type: ignore[import-untyped,unused-ignore]

Json: TypeAlias = dict[str, Any]
Sent: TypeAlias = list[tuple[str, Json]]

SAS = "m.sas.v1"
_OFFER: Json = {
    "method": SAS,
    "key_agreement_protocols": ["curve25519-hkdf-sha256"],
    "hashes": ["sha256"],
    "message_authentication_codes": ["hkdf-hmac-sha256.v2"],
    "short_authentication_string": ["decimal", "emoji"],
}
_CHOICE: Json = {
    "key_agreement_protocol": "curve25519-hkdf-sha256",
    "hash": "sha256",
    "message_authentication_code": "hkdf-hmac-sha256.v2",
}
_FINAL = frozenset({"done", "cancelled"})


@dataclass(frozen=True)
class Party:
    """One side of a verification.

    :param user_id: the user.
    :param device_id: the device that takes part.
    :param keys: what the other side is to confirm: the device's key and the user's master key, by their ids.
    """

    user_id: str
    device_id: str
    keys: Mapping[str, str]


@dataclass
class Verification:
    """A verification by emoji. Its methods return what is to be sent to the other side.

    :param flow_id: its transaction id, or the id of the event that asked for it.
    :param own: this side.
    :param user_id: the other side's user.
    :param asked: whether this side has asked for it.
    :param room_id: the room that it takes place in; None if it is between devices.
    :ivar phase: as in the answer of ``get_verification``.
    :ivar cancel_code: why it was cancelled.
    :ivar other: the other side, once it is known.
    :ivar confirmed: the ids of the other side's keys that it has vouched for, once it did.
    :ivar is_ready: whether the homeserver has shown this side's acceptance.
    :ivar is_confirmed: whether both sides have confirmed.
    """

    flow_id: str
    own: Party
    user_id: str
    asked: bool
    room_id: str | None = None
    phase: str = "requested"
    cancel_code: str = ""
    other: Party | None = None
    confirmed: frozenset[str] | None = None
    is_ready: bool = False
    is_confirmed: bool = False
    _sas: vodozemac.Sas = field(default_factory=vodozemac.Sas)
    _established: vodozemac.EstablishedSas | None = None
    # The content that started it, and who sent it.
    _start: Json | None = None
    _started_here: bool = False
    _commitment: str = ""
    _their_key: str = ""
    _matches: bool = False
    _done: bool = False

    @property
    def emoji(self) -> list[str] | None:
        """The seven emoji, once they are known."""
        if self._established is None:
            return None
        assert self.other is not None
        sides = [(self.own, self._sas.public_key.to_base64()), (self.other, self._their_key)]
        who = [f"{side.user_id}|{side.device_id}|{key}" for side, key in sides]
        first, second = who if self._started_here else reversed(who)
        info = f"MATRIX_KEY_VERIFICATION_SAS|{first}|{second}|{self.flow_id}"
        indices = self._established.bytes(info).emoji_indices
        return [Sas.emoji[index][0].replace("\ufe0f", "") for index in indices]

    def accept(self) -> Sent:
        """Accept the other side's request."""
        self.phase = "ready"
        return [self._message("ready", from_device=self.own.device_id, methods=[SAS])]

    def start(self) -> Sent:
        """Start to compare emoji, unless the other side has started."""
        if self._start is not None:
            return []
        sent = self._message("start", from_device=self.own.device_id, **_OFFER)
        self.phase, self._start, self._started_here = "started", sent[1], True
        return [sent]

    def confirm(self) -> Sent:
        """Say that the emoji match."""
        self._matches = True
        ids = ",".join(sorted(self.own.keys))
        macs = {key_id: self._mac(key, key_id, sent=True) for key_id, key in self.own.keys.items()}
        mac = self._message("mac", mac=macs, keys=self._mac(ids, "KEY_IDS", sent=True))
        return [mac, *self._finish()]

    def cancel(self, code: str, reason: str) -> Sent:
        """Cancel it, unless it has ended."""
        if self.phase in _FINAL:
            return []
        self.phase, self.cancel_code = "cancelled", code
        return [self._message("cancel", code=code, reason=reason)]

    def receive(self, kind: str, content: Json) -> Sent:
        """Take a message of the other side; what makes no sense cancels the verification.

        :param kind: its type after ``m.key.verification.``.
        """
        if self.phase in _FINAL and not (kind == "done" and self.phase == "done"):
            return []
        if kind == "cancel":
            self.phase, self.cancel_code = "cancelled", str(content.get("code", ""))
            return []
        try:
            return self._receive(kind, content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return self.cancel("m.invalid_message", f"{kind}: {type(error).__name__} {error}")

    def _receive(self, kind: str, content: Json) -> Sent:
        match kind:
            case "ready" if self.asked and self.phase == "requested":
                self.phase = "ready"
            case "ready" if self.asked and self.phase == "started" and not self._started_here:
                pass  # overtaken by the start, which says as much
            case "start" if self._start is None or (self._started_here and self._loses_to(content)):
                return self._take_start(content)
            case "start":
                pass  # ours counts
            case "accept" if self._started_here and not self._commitment:
                differs = any(content[name] != value for name, value in _CHOICE.items())
                if differs or "emoji" not in content["short_authentication_string"]:
                    return self.cancel("m.unknown_method", "it is not what was offered")
                self._commitment = content["commitment"]
                return [self._message("key", key=self._sas.public_key.to_base64())]
            case "key" if self._start is not None and self._established is None:
                return self._take_key(content["key"])
            case "mac" if self._established is not None and self.confirmed is None:
                return self._take_mac(content)
            case "done" if self.confirmed is not None:
                self._done = True
                return self._finish()
            case _:
                return self.cancel("m.unexpected_message", f"{kind} was not expected")
        return []

    def _loses_to(self, content: Json) -> bool:
        """Return whether the other side's start counts, where both have started."""
        theirs = (self.user_id, content["from_device"])
        return not self._commitment and theirs < (self.own.user_id, self.own.device_id)

    def _take_start(self, content: Json) -> Sent:
        self.phase, self._start, self._started_here = "started", content, False
        # Each has one choice here, but for what is compared: every client offers decimals, too.
        if content["method"] != SAS or any(
            not set(ours) <= set(content[name]) for name, ours in _OFFER.items() if name != "method"
        ):
            return self.cancel("m.unknown_method", "there is nothing that both can do")
        commitment = _commitment(self._sas.public_key.to_base64(), content)
        strings = _OFFER["short_authentication_string"]
        accept = {**_CHOICE, "short_authentication_string": strings, "commitment": commitment}
        return [self._message("accept", method=SAS, **accept)]

    def _take_key(self, key: str) -> Sent:
        if self._started_here and _commitment(key, self._start) != self._commitment:
            return self.cancel("m.mismatched_commitment", "the key is not the one that was committed to")
        self._their_key = key
        ours = self._sas.public_key.to_base64()
        self._established = self._sas.diffie_hellman(vodozemac.Curve25519PublicKey.from_base64(key))
        return [] if self._started_here else [self._message("key", key=ours)]

    def _take_mac(self, content: Json) -> Sent:
        macs: Json = content["mac"]
        assert self.other is not None
        known = {key_id: key for key_id, key in self.other.keys.items() if key_id in macs}
        right = content["keys"] == self._mac(",".join(sorted(macs)), "KEY_IDS", sent=False) and all(
            macs[key_id] == self._mac(key, key_id, sent=False) for key_id, key in known.items()
        )
        if not right or f"ed25519:{self.other.device_id}" not in known:
            return self.cancel("m.key_mismatch", "the keys are not those that the homeserver has")
        self.confirmed = frozenset(known)
        return self._finish()

    def _finish(self) -> Sent:
        """Say that it is done once both sides have confirmed; it is when the other side has said so, too."""
        if self.confirmed is None or not self._matches:
            return []
        sent = [] if self.is_confirmed else [self._message("done")]
        self.is_confirmed = True
        if self._done:
            self.phase = "done"
        return sent

    def _mac(self, value: str, key_id: str, *, sent: bool) -> str:
        assert self._established is not None
        assert self.other is not None
        sides = [self.own, self.other] if sent else [self.other, self.own]
        who = "".join(f"{side.user_id}{side.device_id}" for side in sides)
        info = f"MATRIX_KEY_VERIFICATION_MAC{who}{self.flow_id}{key_id}"
        return str(self._established.calculate_mac(value, info))

    def _message(self, kind: str, **content: Any) -> tuple[str, Json]:
        if self.room_id is None:
            return kind, {**content, "transaction_id": self.flow_id}
        return kind, {**content, "m.relates_to": {"rel_type": "m.reference", "event_id": self.flow_id}}


def _commitment(key: str, start: Json | None) -> str:
    committed = key + Api.to_canonical_json(start)
    return b64encode(sha256(committed.encode()).digest()).decode().rstrip("=")
