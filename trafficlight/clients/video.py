"""Recognises what a video tile shows by the colour in the middle of its snapshot."""

from enum import StrEnum
from pathlib import Path

# The colour of a tile without video while it is connecting.
_CONNECTING = (68, 68, 68)
# What a codec may make of a pure colour: its own channel at least, the two others at most.
_PURE, _ABSENT = 200, 60
# What it may make of the grey (128, 128, 128) of a tile that has received no frame yet.
_GREY = range(121, 136)


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
