"""Telling what a video tile shows by the colour at the middle of its snapshot."""

from enum import StrEnum
from pathlib import Path

# What a tile without video is painted with while the connection is being made.
_CONNECTING = (68, 68, 68)
# How far a channel may be off after the codec, on a scale of 255.
_TOLERANCE = 40
# How far a colour's own channel must stand above the others.
_DOMINANCE = 80


class VideoImage(StrEnum):
    """What a tile can show: a plain picture that a client was told to send, or a state of the call."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"
    INITIAL = "initial"
    CONNECTING = "connecting"

    @property
    def settable(self) -> bool:
        """Whether a client can be told to send it."""
        return self not in (VideoImage.INITIAL, VideoImage.CONNECTING)


def colour_of(snapshot: Path) -> VideoImage:
    """Return what the middle of a picture shows, whatever its format, with or without transparency.

    :raises AssertionError: the colour is none of the known ones.
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
        if own - max(others) >= _DOMINANCE:
            return image
    if all(abs(channel - 128) <= _TOLERANCE for channel in (red, green, blue)):
        return VideoImage.INITIAL
    raise AssertionError(f"{snapshot.name} shows rgb({red}, {green}, {blue}) at its middle: no known picture")
