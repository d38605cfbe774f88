import asyncio
from base64 import b64decode, b64encode

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.errors import ActionError
from trafficlight.server_types import AnyHomeServer


class TwoInAChat(Test):
    """The direct chat that the other tests start from."""

    clients = {"alice": AnyMatrixClient, "bob": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def meet(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        """Register both, and bring them together in a direct chat."""
        await alice.register(server)
        await bob.register(server)
        await alice.create_dm(bob.user_id)
        await bob.accept_invite()

    async def verify(self, asking: MatrixClient, accepting: MatrixClient) -> None:
        """Verify each other by emoji, to the end."""
        await accepting.accept_crosssign()
        assert await asking.get_emoji() == await accepting.get_emoji()
        await asyncio.gather(asking.verify_crosssign(), accepting.verify_crosssign())


class VerifiedByEmoji(TwoInAChat):
    """Two users compare emoji; each shows the other as verified afterwards, and trusts the next message."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.start_crosssign(bob.user_id)
        assert await alice.get_trust(bob.user_id) == "unverified"
        await self.verify(alice, bob)

        assert await alice.get_trust(bob.user_id) == "verified"
        assert await bob.get_trust(alice.user_id) == "verified"
        await bob.send_message("It is really me")
        await alice.verify_message_in_timeline("It is really me")
        await alice.verify_last_message_is_trusted()


class EmojiDoNotMatch(TwoInAChat):
    """If one says that the emoji do not match, both learn it, and neither is verified."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.start_crosssign(bob.user_id)
        await bob.accept_crosssign()
        await alice.get_emoji()

        await alice.reject_emoji()

        async def cancelled() -> bool:
            return (await bob.get_verification())["phase"] == "cancelled"

        await self.eventually(cancelled, message="bob's client did not cancel the verification")
        assert (await bob.get_verification()).get("cancel_code") == "m.mismatched_sas"
        assert await alice.get_trust(bob.user_id) == "unverified"
        assert await bob.get_trust(alice.user_id) == "unverified"


class CancelledVerification(TwoInAChat):
    """If one cancels the verification, the other learns it."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.start_crosssign(bob.user_id)
        await bob.accept_crosssign()

        await bob.cancel_verification()

        async def cancelled() -> bool:
            return (await alice.get_verification())["phase"] == "cancelled"

        await self.eventually(cancelled, message="alice's client did not cancel the verification")
        assert await alice.get_trust(bob.user_id) == "unverified"


class VerifiedByQrCode(TwoInAChat):
    """One user scans the QR code that the other one shows; each shows the other as verified afterwards."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.start_crosssign(bob.user_id)

        await alice.scan_qr_code(await bob.show_qr_code())
        await bob.confirm_qr_code()

        async def verified() -> bool:
            return await alice.get_trust(bob.user_id) == "verified"

        await self.eventually(verified, message="alice's client did not show bob as verified")
        assert await bob.get_trust(alice.user_id) == "verified"


class WrongQrCode(TwoInAChat):
    """A QR code with another key than the homeserver has is refused, and neither user is verified."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.start_crosssign(bob.user_id)
        code = bytearray(b64decode(await bob.show_qr_code()))
        # The first key is after the name, version and mode, and the id of the verification with its length.
        code[10 + int.from_bytes(code[8:10])] ^= 1

        try:
            await alice.scan_qr_code(b64encode(code).decode())
        except ActionError:
            pass
        else:
            raise AssertionError("alice takes the code for bob's")

        assert await alice.get_trust(bob.user_id) == "unverified"
        assert await bob.get_trust(alice.user_id) == "unverified"


class NewIdentity(TwoInAChat):
    """If a verified user replaces their identity, the other one is warned."""

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server)
        await alice.start_crosssign(bob.user_id)
        await self.verify(alice, bob)
        assert await alice.get_trust(bob.user_id) == "verified"

        await bob.reset_identity()

        async def changed() -> bool:
            return await alice.get_trust(bob.user_id) == "changed"

        await self.eventually(changed, message="alice's client did not show bob's identity as changed")
