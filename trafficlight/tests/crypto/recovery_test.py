from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import AnyMatrixClient
from trafficlight.errors import ActionError
from trafficlight.server_types import AnyHomeServer
from trafficlight.tests.crypto.meeting import ROOM, TwoUsers


class BackupReset(Test):
    """After a reset of the key backup, the old recovery key opens nothing and the new one does."""

    clients = {"alice": AnyMatrixClient, "later": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, later: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await alice.create_room("Diary")
        await alice.send_message("Dear diary")
        later.localpart, later.password = alice.localpart, alice.password
        old = await alice.create_key_backup()
        await later.login(server)
        await later.open_room("Diary")
        await later.restore_key_backup(old)
        await later.verify_message_in_timeline("Dear diary")

        new = await alice.create_key_backup()

        try:
            await later.restore_key_backup(old)
        except ActionError:
            pass
        else:
            raise AssertionError("the recovery key of the backup before was accepted")
        await later.restore_key_backup(new)


class StorageCleared(Test):
    """A client whose storage is lost shows what it cannot decrypt, and the backup brings it back."""

    clients = {"alice": AnyMatrixClient}
    servers = {"server": AnyHomeServer}

    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await alice.create_room("Diary")
        await alice.send_message("Dear diary")
        key = await alice.create_key_backup()

        await alice.clear_storage()
        await alice.login(server)
        await alice.open_room("Diary")
        await alice.verify_last_message_is_utd()

        await alice.restore_key_backup(key)
        await alice.verify_message_in_timeline("Dear diary")


class DehydratedDevice(TwoUsers):
    """What was sent while only a dehydrated device was there can be read after the login (MSC3814)."""

    async def play(self, alice: MatrixClient, bob: MatrixClient, here: HomeServer, there: HomeServer) -> None:
        await self.meet(alice, bob, here, there)
        await alice.enable_dehydrated_device("seven small boats")
        await self.say(bob, "Good night", alice)
        before = await self.key(await self.until_read(bob, alice))

        await alice.logout()
        # The new key shows that bob knows of both changes of alice's devices.
        away = await self.until_rotated(bob, before)

        await alice.login(here, key_backup_passphrase="seven small boats")
        await alice.open_room(ROOM)

        async def read() -> bool:
            return (await self.entry(alice, away))["message"] != ""

        await self.eventually(read, message="alice could not read what was sent while she was away")
