"""An Element Call client: accounts, the lobby and the call, as a test sees them."""

import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from trafficlight.clients.action import action
from trafficlight.clients.base import CaseBackend, Client, ClientApi
from trafficlight.clients.matrix import homeserver_url
from trafficlight.clients.matrix_answers import HomeserverUrl
from trafficlight.errors import ActionError
from trafficlight.protocol import JsonObject

# The colour of a tile without video while it is connecting.
_CONNECTING = (68, 68, 68)
# What a codec may make of a pure colour: its own channel at least, the two others at most.
_PURE, _ABSENT = 200, 60
# What it may make of the grey (128, 128, 128) of a tile that has received no frame yet.
_GREY = range(121, 136)

PlainPicture: TypeAlias = Literal["red", "green", "blue"]
# Some versions of the page leave an empty parameter at the end of its address.
PageUrl: TypeAlias = Annotated[str | None, AfterValidator(lambda url: url and url.removesuffix("&"))]
Shown = TypeVar("Shown", "LobbyData", "VideoTile")


class VideoImage(StrEnum):
    """What a tile can show: a plain picture that a client sends, or a state of the call."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"
    INITIAL = "initial"
    CONNECTING = "connecting"

    @property
    def settable(self) -> bool:
        """Whether a client can send it."""
        return self not in (VideoImage.INITIAL, VideoImage.CONNECTING)


def colour_of(snapshot: Path) -> VideoImage:
    """Return what a picture shows, in any format, with or without transparency.

    A colour's own channel must be at least 200 and the two others at most 60, on a scale of 255. Grey is from
    121 to 135 in all channels. Every other colour is unknown.

    :raises AssertionError: the colour is unknown.
    """
    from PIL import Image  # here, because only calls need it

    with Image.open(snapshot) as picture:
        rgb = picture.convert("RGB")
        pixel = rgb.getpixel((rgb.width // 2, rgb.height // 2))
    assert isinstance(pixel, tuple)
    red, green, blue = int(pixel[0]), int(pixel[1]), int(pixel[2])
    if (red, green, blue) == _CONNECTING:
        return VideoImage.CONNECTING
    for image, own, others in (
        (VideoImage.RED, red, (green, blue)),
        (VideoImage.GREEN, green, (red, blue)),
        (VideoImage.BLUE, blue, (red, green)),
    ):
        if own >= _PURE and max(others) <= _ABSENT:
            return image
    if all(channel in _GREY for channel in (red, green, blue)):
        return VideoImage.INITIAL
    raise AssertionError(f"{snapshot.name} shows rgb({red}, {green}, {blue}) at its middle: unknown picture")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow")


class CreateAnswer(_Lenient):
    """Whether the call existed before."""

    existing: bool = False


class VideoTile(_Lenient):
    """What one video tile shows."""

    caption: str
    """The name under it."""
    snapshot: str | None = None
    muted: bool | None = None
    screenshare: bool | None = None
    """Whether it shows a screen."""
    snapshot_file: SkipJsonSchema[Path | None] = None
    """The picture of it, as a file; None where the client sent none."""

    def __repr__(self) -> str:
        return f"<VideoTile {self.caption!r}>"

    def video_image_colour(self) -> VideoImage:
        """Return the picture in the tile, told by the colour at its middle.

        :raises AssertionError: there is no snapshot, or the colour is none of the known ones.
        """
        assert self.snapshot_file is not None, f"the tile {self.caption!r} has no snapshot"
        return colour_of(self.snapshot_file)


class LobbyData(_Lenient):
    """What the lobby shows."""

    snapshot: str | None = None
    invite_url: str | None = None
    page_url: PageUrl = None
    call_name: str | None = None
    muted: bool | None = None
    video_muted: bool | None = None
    snapshot_file: SkipJsonSchema[Path | None] = None
    """A picture of it."""


class CallData(_Lenient):
    """What the call shows."""

    video_tiles: list[VideoTile] = Field(default_factory=list, alias="videos")
    invite_url: str | None = None
    page_url: PageUrl = None
    call_name: str | None = None
    muted: bool | None = None
    video_muted: bool | None = None
    screenshare: bool | None = None

    def get_video_tile_by_caption(self, caption: str) -> VideoTile:
        """Return the one tile with a caption.

        :raises AssertionError: there is none, or more than one.
        """
        found = [tile for tile in self.video_tiles if tile.caption == caption]
        captions = [tile.caption for tile in self.video_tiles]
        assert len(found) == 1, (
            f"{len(found)} tiles have the caption {caption!r}; the captions are {captions}"
        )
        return found[0]


class ElementCallClient(Client):
    """An Element Call client under test.

    Choose an account first (:meth:`register`, :meth:`login`, :meth:`login_as` or :meth:`guest_user`), then
    :meth:`create` or :meth:`join_by_url`.

    :ivar localpart: the account's name; None before one is chosen, and for a guest.
    :ivar password: the account's password.
    :ivar display_name: the name that others see.
    :ivar homeserver: where the account is; None for that of the page.
    """

    def __init__(self, name: str, registration: JsonObject, link: CaseBackend) -> None:
        super().__init__(name, registration, link)
        self.localpart: str | None = None
        self.password: str | None = None
        self.display_name: str | None = None
        self.homeserver: ClientApi | None = None
        self._account: Literal["none", "guest", "user"] = "none"

    async def register(self, homeserver: ClientApi | None = None) -> None:
        """Create an account with a name and password made up here, and be logged in with it.

        :param homeserver: a homeserver, or a network proxy in front of one; by default the page's own.
        """
        self.localpart = f"user-{self.name.lower()}-{secrets.token_hex(5)}"
        self.password = secrets.token_urlsafe(16)
        self.display_name = self.localpart
        await self._register(self.localpart, self.password, await self._url_for(homeserver))
        self._account = "user"

    async def login(self, localpart: str, password: str, homeserver: ClientApi | None = None) -> None:
        """Log in to an account that exists.

        :param homeserver: see :meth:`register`.
        """
        await self._login(localpart, password, await self._url_for(homeserver))
        self.localpart, self.password, self.display_name = localpart, password, localpart
        self._account = "user"

    async def login_as(self, other: "ElementCallClient") -> None:
        """Log in to the account of another client.

        :raises ActionError: the other one has no account.
        """
        if other.localpart is None or other.password is None:
            raise ActionError(f"{other.name} has no account to log in to", role=self.name, action="login")
        await self.login(other.localpart, other.password, other.homeserver)
        self.display_name = other.display_name

    async def guest_user(self) -> None:
        """Go on without an account, under the role's name."""
        self._account = "guest"
        self.display_name = self.name

    async def set_display_name(self, name: str | None = None) -> None:
        """Set the name that others see; the role's name by default. A guest gives it when it joins."""
        chosen = name if name is not None else self.name
        if self._account != "guest":
            await self._set_display_name(chosen)
        self.display_name = chosen

    async def create(self, call_name: str) -> bool:
        """Create a call, or join the one of that name. Return whether it existed.

        :raises ActionError: no account was chosen.
        """
        answer = await self._create_or_join(call_name, self._guest_name("create_or_join"))
        return answer.existing

    async def join_by_url(self, url: str) -> None:
        """Open a call by its address; the lobby is shown then.

        :raises ActionError: no account was chosen.
        """
        await self._join_by_url(url, self._guest_name("join_by_url"))

    async def get_lobby_data(self) -> LobbyData:
        """Return what the lobby shows."""
        return await self._with_snapshot(await self._get_lobby_data())

    async def get_call_data(self) -> CallData:
        """Return what the call shows."""
        call = await self._get_call_data()
        for tile in call.video_tiles:
            await self._with_snapshot(tile)
        return call

    async def set_video_image(self, image: VideoImage) -> None:
        """Send a plain picture as the camera's.

        :raises ValueError: for `INITIAL` and `CONNECTING`, which are only ever seen.
        """
        if not image.settable:
            raise ValueError(f"{image!r} cannot be set: it is only ever seen")
        await self._set_video_image(cast("PlainPicture", image.value))

    async def _url_for(self, homeserver: ClientApi | None) -> HomeserverUrl | None:
        self.homeserver = homeserver
        if homeserver is None:
            return None
        return homeserver_url(await self._network.url_for(homeserver.cs_api))

    def _guest_name(self, wanted: str) -> str | None:
        if self._account == "none":
            message = "choose an account first: register(), login(), login_as() or guest_user()"
            raise ActionError(message, role=self.name, action=wanted)
        return self.display_name if self._account == "guest" else None

    async def _with_snapshot(self, shown: Shown) -> Shown:
        shown.snapshot_file = await self.uploaded(shown.snapshot) if shown.snapshot else None
        return shown

    @action("register")
    async def _register(
        self, localpart: str, password: str, homeserver_url: HomeserverUrl | None = None
    ) -> None:
        """Create an account and be logged in with it; `homeserver_url` as for other clients."""

    @action("login")
    async def _login(
        self, localpart: str, password: str, homeserver_url: HomeserverUrl | None = None
    ) -> None:
        """Log in to an account that exists; `homeserver_url` as for other clients."""

    @action()
    async def logout(self) -> None:
        """Log out."""

    @action("set_display_name")
    async def _set_display_name(self, display_name: str) -> None:
        """Set the name that others see."""

    @action("create_or_join")
    async def _create_or_join(self, call_name: str, display_name: str | None = None) -> CreateAnswer:
        """Create a call or join the one of that name; `display_name` comes for guests. The answer's
        `existing` is `"true"` or `"false"`."""
        raise NotImplementedError

    @action("join_by_url")
    async def _join_by_url(self, call_url: str, display_name: str | None = None) -> None:
        """Open a call by its address, for guests under a name. Returns only when the lobby is shown."""

    @action()
    async def lobby_join(self) -> None:
        """Go from the lobby into the call. Returns only when the call is shown."""

    @action("get_lobby_data", answer_in="data")
    async def _get_lobby_data(self) -> LobbyData:
        """Answer what the lobby shows. `snapshot` names a file that was uploaded before."""
        raise NotImplementedError

    @action("get_call_data", answer_in="data")
    async def _get_call_data(self) -> CallData:
        """Answer what the call shows. Every `snapshot` names a file that was uploaded before."""
        raise NotImplementedError

    @action("set_video_image")
    async def _set_video_image(self, image: PlainPicture) -> None:
        """Send a plain picture as the camera's."""

    @action()
    async def set_mute(self, audio_mute: bool, video_mute: bool) -> None:
        """Mute or unmute microphone and camera."""

    @action()
    async def set_screenshare(self, screenshare: bool) -> None:
        """Start or stop to share the screen."""

    @action()
    async def leave_call(self) -> None:
        """Leave the call."""

    @action()
    async def reload(self) -> None:
        """Reload the page."""

    @action()
    async def recreate(self, unload_hooks: bool = False) -> None:
        """Close the page and open a new one; with `unload_hooks` the old page may say goodbye."""
