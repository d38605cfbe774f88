"""The nio adapter's cross-signing: its signatures, and what they say about users and devices."""

import json
from typing import Any

import pytest
import vodozemac
from nio import Api  # type: ignore[import-untyped,unused-ignore]

from trafficlight.adapters.nio.identity import Identities, Identity, is_signed, public, signed

ALICE, BOB = "@alice:hs", "@bob:hs"
CURVE = "5iW9J7WZjQKBTvrtmXQ3x2c1RRsMUnsFLLCxEpUXPxQ"

# Of the specification's appendix on signing JSON.
SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
EMPTY_SIGNED = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
DATA_SIGNED = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"


def device(device_id: str = "PHONE", user_id: str = ALICE) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"curve25519:{device_id}": CURVE, f"ed25519:{device_id}": "not looked at"},
        "signatures": {user_id: {f"ed25519:{device_id}": "not looked at"}},
        "unsigned": {"device_display_name": "a phone"},
    }


def answer(identity: Identity, *, sign: bool = True, vouched_by: Identity | None = None) -> dict[str, Any]:
    """What a homeserver answers about a user with one device."""
    user, keys, phone = identity.user_id, identity.public_keys(), device(user_id=identity.user_id)
    master = keys["master_key"]
    if vouched_by is not None:
        master = signed(master, vouched_by.user_id, vouched_by.user_signing)
    return {
        "device_keys": {user: {"PHONE": signed(phone, user, identity.self_signing) if sign else phone}},
        "master_keys": {user: master},
        "self_signing_keys": {user: keys["self_signing_key"]},
    }


@pytest.mark.parametrize(
    ("value", "signature"), [({}, EMPTY_SIGNED), ({"two": "Two", "one": 1}, DATA_SIGNED)]
)
def test_signatures_are_those_of_the_specification(value: dict[str, Any], signature: str) -> None:
    key = Identity("domain", [SEED] * 3).master
    assert signed(value, "domain", key) == {
        **value,
        "signatures": {"domain": {f"ed25519:{public(key)}": signature}},
    }


def test_keys_and_device_are_signed_as_vodozemac_checks_it() -> None:
    alice = Identity(ALICE)
    keys = alice.public_keys()
    phone = signed(device(), ALICE, alice.self_signing)
    signers = {
        public(alice.master): [keys["self_signing_key"], keys["user_signing_key"]],
        public(alice.self_signing): [phone],
    }
    for signer, values in signers.items():
        for value in values:
            (text,) = value.pop("signatures")[ALICE].values()
            value.pop("unsigned", None)
            vodozemac.Ed25519PublicKey.from_base64(signer).verify_signature(
                Api.to_canonical_json(value).encode(), vodozemac.Ed25519Signature.from_base64(text)
            )
    assert keys["master_key"] == {
        "user_id": ALICE,
        "usage": ["master"],
        "keys": {f"ed25519:{public(alice.master)}": public(alice.master)},
    }


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": "OTHER"},
        {"signatures": {}},
        {"signatures": None},
        {"signatures": {ALICE: {}}},
    ],
)
def test_changed_object_is_not_signed(change: dict[str, Any]) -> None:
    alice = Identity(ALICE)
    phone, key = signed(device(), ALICE, alice.self_signing), public(alice.self_signing)
    assert is_signed({**phone, "unsigned": {}}, ALICE, key)
    assert not is_signed({**phone, **change}, ALICE, key)
    assert not is_signed(phone, BOB, key)
    assert not is_signed(phone, ALICE, public(alice.master))


def test_user_without_an_identity_is_unknown() -> None:
    known = Identities(BOB)
    known.take({"device_keys": {ALICE: {"PHONE": device()}}})
    assert known.trust(ALICE) == "unknown"
    assert known.shield(ALICE, CURVE) == "grey"


def test_own_identity_is_verified_and_vouches_for_its_devices() -> None:
    known = Identities(ALICE)
    known.own = Identity(ALICE)
    known.take(answer(known.own))
    assert known.trust(ALICE) == "verified"
    assert known.is_verified("PHONE")
    assert not known.is_verified("OTHER")


def test_device_without_the_private_keys_verifies_nothing() -> None:
    known = Identities(ALICE)
    known.take(answer(Identity(ALICE)))
    assert known.trust(ALICE) == "unverified"
    assert not known.is_verified("PHONE")


@pytest.mark.parametrize(("sign", "shield"), [(True, "none"), (False, "grey")])
def test_shield_says_whether_the_owner_signed_the_device(sign: bool, shield: str) -> None:
    known = Identities(BOB)
    known.take(answer(Identity(ALICE), sign=sign))
    assert known.trust(ALICE) == "unverified"
    assert known.shield(ALICE, CURVE) == shield
    assert known.shield(ALICE, None) == "grey"


def test_self_signing_key_of_another_identity_signs_nothing() -> None:
    true, false = Identity(ALICE), Identity(ALICE)
    known = Identities(BOB)
    known.take({**answer(false), "master_keys": answer(true)["master_keys"]})
    assert known.shield(ALICE, CURVE) == "grey"


def test_removed_device_keeps_the_shield_of_its_messages() -> None:
    alice, known = Identity(ALICE), Identities(BOB)
    known.take(answer(alice))
    known.take({**answer(alice), "device_keys": {ALICE: {}}})
    assert known.shield(ALICE, CURVE) == "none"


@pytest.mark.parametrize(("verified", "shield"), [(False, "grey"), (True, "red")])
@pytest.mark.parametrize("restarted", [False, True])
def test_changed_identity(verified: bool, shield: str, restarted: bool) -> None:
    known = Identities(BOB)
    known.own = bob = Identity(BOB)
    known.take(answer(bob))
    known.take(answer(Identity(ALICE), vouched_by=bob if verified else None))
    assert known.trust(ALICE) == ("verified" if verified else "unverified")
    if restarted:
        known = Identities(BOB, json.loads(json.dumps(known.keep())))
        assert known.trust(BOB) == "verified"
    second = Identity(ALICE)
    known.take(answer(second))
    assert known.trust(ALICE) == "changed"
    assert known.shield(ALICE, CURVE) == shield
    known.take(answer(second, vouched_by=bob))
    assert known.trust(ALICE) == "verified"
    assert known.shield(ALICE, CURVE) == "none"


def test_identity_that_replaced_the_own_one_elsewhere_is_not_verified() -> None:
    known = Identities(BOB)
    known.own = bob = Identity(BOB)
    known.take(answer(bob))
    known.take(answer(Identity(BOB)))
    known.take(answer(Identity(ALICE), vouched_by=bob))
    assert known.trust(BOB) == "changed"
    assert known.trust(ALICE) == "unverified"
