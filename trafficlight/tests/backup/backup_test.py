from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.errors import ActionError
from trafficlight.server_types import AnyHomeServer


class BackedUp(Test):
    """Alice on one client, and the same account on another one later."""

    clients = {"alice": AnyMatrixClient, "later": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def write(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        """Write a message, and have the other client play the same account."""
        await alice.register(server)
        await alice.create_room("Diary")
        await alice.send_message("Dear diary")
        await alice.verify_message_in_timeline("Dear diary")
        later.localpart, later.password = alice.localpart, alice.password

    async def back_up(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> str:
        """Write a message, back the keys up, and log the other client in; return the recovery key."""
        await self.write(alice, later, server)
        key = await alice.create_key_backup()
        await later.login(server)
        await later.open_room("Diary")
        await later.verify_last_message_is_utd()
        return key


class RestoredByRecoveryKey(BackedUp):
    """The recovery key opens the backup: what could not be decrypted can be read."""

    async def run(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        key = await self.back_up(alice, later, server)
        await later.restore_key_backup(key)
        await later.verify_message_in_timeline("Dear diary")


class WrongRecoveryKey(BackedUp):
    """Another account's recovery key opens nothing."""

    clients = {"alice": AnyMatrixClient, "later": AnyMatrixClient, "carol": AnyMatrixClient}
    interchangeable = ("carol", "alice")

    async def run(
        self, alice: MatrixClient, later: MatrixClient, carol: MatrixClient, server: HomeServer
    ) -> None:
        await self.back_up(alice, later, server)
        await carol.register(server)
        wrong = await carol.create_key_backup()
        try:
            await later.restore_key_backup(wrong)
        except ActionError:
            pass
        else:
            raise AssertionError("the recovery key of another account was accepted")
        await later.verify_last_message_is_utd()


class RestoredByPassphrase(BackedUp):
    """A client that logs in with the passphrase reads the history."""

    async def run(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        await self.write(alice, later, server)
        await alice.enable_key_backup("seven small boats")

        await later.login(server, key_backup_passphrase="seven small boats")
        await later.open_room("Diary")
        await later.verify_message_in_timeline("Dear diary")
