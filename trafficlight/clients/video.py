"""Recognises what a video tile shows by the colour in the middle of its snapshot."""

from enum import StrEnum
from pathlib import Path

# The colour of a tile without video while it is connecting.
_CONNECTING = (68, 68, 68)
# How much the codec may change a channel, on a scale of 255.
_TOLERANCE = 40
# How much a colour's own channel must exceed the others.
_DOMINANCE = 80


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
        if own - max(others) >= _DOMINANCE:
            return image
    if all(abs(channel - 128) <= _TOLERANCE for channel in (red, green, blue)):
        return VideoImage.INITIAL
    raise AssertionError(f"{snapshot.name} shows rgb({red}, {green}, {blue}) at its middle: unknown picture")
