"""Cross-signing, which matrix-nio lacks: the own identity, and what a device knows about those of others.

https://spec.matrix.org/latest/client-server-api/#cross-signing
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nio import Api  # type: ignore[import-untyped,unused-ignore]

Json: TypeAlias = dict[str, Any]
Trust: TypeAlias = Literal["verified", "unverified", "changed", "unknown"]
Shield: TypeAlias = Literal["none", "grey", "red"]


def public(key: Ed25519PrivateKey) -> str:
    """Return the public part of a key in unpadded base64, which is also its id."""
    return _encoded(key.public_key().public_bytes_raw())


def signed(value: Json, user_id: str, key: Ed25519PrivateKey) -> Json:
    """Return a JSON object with the signature of a user's cross-signing key, and no other."""
    signature = _encoded(key.sign(_signed_part(value)))
    return {**value, "signatures": {user_id: {f"ed25519:{public(key)}": signature}}}


def is_signed(value: Json, user_id: str, key: str) -> bool:
    """Return whether a JSON object has the valid signature of a user's cross-signing key.

    :param key: the public key.
    """
    try:
        signature = _decoded(value["signatures"][user_id][f"ed25519:{key}"])
        Ed25519PublicKey.from_public_bytes(_decoded(key)).verify(signature, _signed_part(value))
    except (KeyError, TypeError, ValueError, InvalidSignature):
        return False
    return True


class Identity:
    """The three cross-signing keys of a user.

    :param user_id: the user.
    :param seeds: the private keys in unpadded base64, as :attr:`seeds` returned them; by default new ones.
    """

    def __init__(self, user_id: str, seeds: Sequence[str] | None = None) -> None:
        self.user_id = user_id
        if seeds is None:
            keys = [Ed25519PrivateKey.generate() for _ in range(3)]
        else:
            keys = [Ed25519PrivateKey.from_private_bytes(_decoded(seed)) for seed in seeds]
        self.master, self.self_signing, self.user_signing = keys

    @property
    def seeds(self) -> list[str]:
        """The private keys in unpadded base64."""
        return [
            _encoded(key.private_bytes_raw()) for key in (self.master, self.self_signing, self.user_signing)
        ]

    def public_keys(self) -> Json:
        """Return the body that uploads the public keys: the master key signs the two others."""
        return {
            "master_key": self._public_key("master", self.master),
            "self_signing_key": signed(
                self._public_key("self_signing", self.self_signing), self.user_id, self.master
            ),
            "user_signing_key": signed(
                self._public_key("user_signing", self.user_signing), self.user_id, self.master
            ),
        }

    def _public_key(self, usage: str, key: Ed25519PrivateKey) -> Json:
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public(key)}": public(key)}}


@dataclass
class Seen:
    """What a device knows about a user's identity.

    :param master: the public master key.
    :param pinned: the master key that was seen first, or verified since.
    :param verified: whether the own identity vouches for it now.
    :param was_verified: whether it, or the one before, ever was verified.
    :param devices: the Curve25519 keys of the devices that it has signed, by device id.
    """

    master: str
    pinned: str
    verified: bool = False
    was_verified: bool = False
    devices: dict[str, str] = field(default_factory=dict)


class Identities:
    """The identities that a device knows, and what it shows about them.

    :param user_id: the user of the device.
    :param kept: what :meth:`keep` returned before a restart.
    """

    def __init__(self, user_id: str, kept: Json | None = None) -> None:
        self._user_id = user_id
        self.own: Identity | None = None
        """The own identity, if this device holds its private keys."""
        self._seen: dict[str, Seen] = {}
        if kept is not None:
            self.own = Identity(user_id, kept["seeds"]) if kept["seeds"] else None
            self._seen = {user: Seen(**seen) for user, seen in kept["seen"].items()}

    def keep(self) -> Json:
        """Return everything as JSON."""
        seen = {user: asdict(one) for user, one in self._seen.items()}
        return {"seeds": self.own.seeds if self.own is not None else None, "seen": seen}

    def take(self, answer: Json) -> None:
        """Learn from an answer to ``/keys/query``."""
        masters, self_signing = answer.get("master_keys", {}), answer.get("self_signing_keys", {})
        # The own identity first: it vouches for the others.
        for user_id in sorted(answer["device_keys"], key=lambda user: user != self._user_id):
            if user_id in masters:
                devices = answer["device_keys"][user_id]
                self._learn(user_id, masters[user_id], self_signing.get(user_id), devices)

    def master(self, user_id: str) -> str | None:
        """Return the public master key of a user, if it is known."""
        seen = self._seen.get(user_id)
        return None if seen is None else seen.master

    def trust(self, user_id: str) -> Trust:
        """Return what to show about a user."""
        seen = self._seen.get(user_id)
        if seen is None:
            return "unknown"
        if seen.master != seen.pinned:
            return "changed"
        return "verified" if seen.verified else "unverified"

    def shield(self, user_id: str, sender_key: str | None) -> Shield:
        """Return the warning to show about a message.

        :param user_id: its sender.
        :param sender_key: the Curve25519 key of the device that encrypted it, if known.
        """
        seen = self._seen.get(user_id)
        if seen is None:
            return "grey"
        if seen.master != seen.pinned:
            return "red" if seen.was_verified else "grey"
        return "none" if sender_key in seen.devices.values() else "grey"

    def is_verified(self, device_id: str) -> bool:
        """Return whether a device of the own account is verified."""
        return self.trust(self._user_id) == "verified" and device_id in self._seen[self._user_id].devices

    def _learn(self, user_id: str, master: Json, self_signing: Json | None, devices: Json) -> None:
        key = _key_of(master)
        before = self._seen.get(user_id)
        seen = self._seen[user_id] = before or Seen(key, key)
        if seen.master != key:
            seen.master, seen.devices = key, {}
        seen.verified = self._vouches_for(user_id, master)
        if seen.verified:
            seen.pinned, seen.was_verified = key, True
        if self_signing is None or not is_signed(self_signing, user_id, key):
            return
        # Devices that were removed keep their messages' shield.
        seen.devices |= {
            device_id: device["keys"].get(f"curve25519:{device_id}", "")
            for device_id, device in devices.items()
            if is_signed(device, user_id, _key_of(self_signing))
        }

    def _vouches_for(self, user_id: str, master: Json) -> bool:
        if self.own is None:
            return False
        if user_id == self._user_id:
            return _key_of(master) == public(self.own.master)
        held = self._seen.get(self._user_id)
        user_signing = public(self.own.user_signing)
        return held is not None and held.verified and is_signed(master, self._user_id, user_signing)


def _key_of(cross_signing_key: Json) -> str:
    return str(next(iter(cross_signing_key["keys"].values()), ""))


def _signed_part(value: Json) -> bytes:
    part = {name: content for name, content in value.items() if name not in ("signatures", "unsigned")}
    return str(Api.to_canonical_json(part)).encode()


def _encoded(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))
