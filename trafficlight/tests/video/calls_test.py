from trafficlight import ElementCallClient, HomeServer, Test
from trafficlight.client_types import AnyCallClient
from trafficlight.clients import VideoImage, VideoTile
from trafficlight.server_types import AnyHomeServer

RED, GREEN, BLUE = VideoImage.RED, VideoImage.GREEN, VideoImage.BLUE
# Seconds until media have come through, on a machine that is busy with several browsers.
MEDIA = 60.0


class TwoInACall(Test):
    """The call that the other tests start from: alice's picture is red, and bob's blue."""

    clients = {"alice": AnyCallClient, "bob": AnyCallClient}
    servers = {"server": AnyHomeServer}
    url: str

    async def meet(
        self, alice: ElementCallClient, bob: ElementCallClient, here: HomeServer, there: HomeServer
    ) -> None:
        """Bring both together in a call, and see that they see each other."""
        await self.log_in(alice, here, RED)
        assert not await alice.create("Two in a call")
        await alice.lobby_join()
        self.url = (await alice.get_call_data()).invite_url or ""
        await self.join(bob, there, BLUE)
        await self.see(alice, bob, alice=RED, bob=BLUE)

    async def log_in(self, client: ElementCallClient, server: HomeServer, picture: VideoImage) -> None:
        """Register a client, which is called like its role."""
        await client.register(server)
        await client.set_display_name()
        await client.set_video_image(picture)

    async def join(self, client: ElementCallClient, server: HomeServer, picture: VideoImage) -> None:
        """Register a client, and enter the call."""
        await self.log_in(client, server, picture)
        await client.join_by_url(self.url)
        await client.lobby_join()

    async def see(self, *clients: ElementCallClient, **pictures: VideoImage) -> None:
        """Wait until clients show exactly these participants, each with its picture."""
        for client in clients:

            async def seen(client: ElementCallClient = client) -> bool:
                tiles = (await client.get_call_data()).video_tiles
                shown = {tile.caption: tile.video_image_colour() for tile in tiles}
                assert shown == pictures, f"{client.name} sees {shown}, not {pictures}"
                return len(tiles) == len(pictures)

            await self.eventually(seen, timeout=MEDIA, message=f"{client.name} did not see the call as it is")

    async def tile(self, client: ElementCallClient, caption: str) -> VideoTile:
        """Return what a client shows of a participant."""
        return (await client.get_call_data()).get_video_tile_by_caption(caption)


class SeeEachOther(TwoInACall):
    """Two participants see each other's picture, and the new one when it changes."""

    servers = {"server": AnyHomeServer, "here": AnyHomeServer, "there": AnyHomeServer}

    async def test_one_server(
        self, alice: ElementCallClient, bob: ElementCallClient, server: HomeServer
    ) -> None:
        await self.meet(alice, bob, server, server)
        await bob.set_video_image(GREEN)
        await self.see(alice, bob, alice=RED, bob=GREEN)

    async def test_federated(
        self, alice: ElementCallClient, bob: ElementCallClient, here: HomeServer, there: HomeServer
    ) -> None:
        await self.meet(alice, bob, here, there)


class Third(TwoInACall):
    """A third participant is seen by the others, sees them, and is not seen any more once it has left."""

    clients = {"alice": AnyCallClient, "bob": AnyCallClient, "carol": AnyCallClient}
    interchangeable = ("bob", "carol")

    async def run(
        self,
        alice: ElementCallClient,
        bob: ElementCallClient,
        carol: ElementCallClient,
        server: HomeServer,
    ) -> None:
        await self.meet(alice, bob, server, server)

        await self.join(carol, server, GREEN)
        await self.see(alice, bob, carol, alice=RED, bob=BLUE, carol=GREEN)

        await carol.leave_call()
        await self.see(alice, bob, alice=RED, bob=BLUE)


class LeftAndBack(TwoInACall):
    """Who leaves the call is not seen any more, and is seen again after coming back."""

    async def run(self, alice: ElementCallClient, bob: ElementCallClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server, server)

        await bob.leave_call()
        await self.see(alice, alice=RED)

        await bob.join_by_url(self.url)
        await bob.lobby_join()
        await self.see(alice, bob, alice=RED, bob=BLUE)


class Muted(TwoInACall):
    """The others see who has muted the microphone, and no picture of who has muted the camera."""

    async def run(self, alice: ElementCallClient, bob: ElementCallClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server, server)
        assert not (await self.tile(alice, "bob")).muted

        await bob.set_mute(audio_mute=True, video_mute=False)

        async def muted() -> bool | None:
            return (await self.tile(alice, "bob")).muted

        await self.eventually(muted, timeout=MEDIA, message="alice did not see that bob is muted")
        await self.see(alice, bob, alice=RED, bob=BLUE)
        shown = await bob.get_call_data()
        assert (shown.muted, shown.video_muted) == (True, False)

        await bob.set_mute(audio_mute=True, video_mute=True)

        async def without_picture() -> bool:
            try:
                return (await self.tile(alice, "bob")).video_image_colour() != BLUE
            except AssertionError:  # an avatar
                return True

        await self.eventually(without_picture, timeout=MEDIA, message="alice still saw bob's picture")

        await bob.set_mute(audio_mute=False, video_mute=False)
        await self.see(alice, bob, alice=RED, bob=BLUE)
        assert not (await self.tile(alice, "bob")).muted


class SharedScreen(TwoInACall):
    """The others see a screen that is shared, until it is shared no more."""

    async def run(self, alice: ElementCallClient, bob: ElementCallClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server, server)

        async def screens() -> list[VideoImage]:
            tiles = (await alice.get_call_data()).video_tiles
            return [tile.video_image_colour() for tile in tiles if tile.screenshare]

        await bob.set_screenshare(True)
        await self.eventually(screens, timeout=MEDIA, message="alice did not see bob's screen")
        assert await screens() == [GREEN]

        await bob.set_screenshare(False)

        async def none() -> bool:
            return not await screens()

        await self.eventually(none, timeout=MEDIA, message="alice still saw bob's screen")
        await self.see(alice, bob, alice=RED, bob=BLUE)


class Reloaded(TwoInACall):
    """Who reloads the page in a call enters it again, and is seen once."""

    async def run(self, alice: ElementCallClient, bob: ElementCallClient, server: HomeServer) -> None:
        await self.meet(alice, bob, server, server)
        await bob.reload()
        await bob.lobby_join()
        await bob.set_video_image(BLUE)
        await self.see(alice, bob, alice=RED, bob=BLUE)
