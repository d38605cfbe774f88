"""The colour at the middle of a snapshot."""

from pathlib import Path

import pytest
from PIL import Image

from trafficlight.clients.element_call import VideoImage, colour_of


def snapshot(folder: Path, colour: tuple[int, int, int]) -> Path:
    path = folder / "tile.png"
    Image.new("RGB", (8, 6), colour).save(path)
    return path


@pytest.mark.parametrize(
    ("colour", "image"),
    [
        ((255, 0, 0), VideoImage.RED),
        ((200, 60, 60), VideoImage.RED),
        ((0, 255, 1), VideoImage.GREEN),
        ((24, 214, 24), VideoImage.GREEN),
        ((0, 0, 254), VideoImage.BLUE),
        ((121, 128, 135), VideoImage.INITIAL),
        ((68, 68, 68), VideoImage.CONNECTING),
    ],
)
def test_pictures(tmp_path: Path, colour: tuple[int, int, int], image: VideoImage) -> None:
    assert colour_of(snapshot(tmp_path, colour)) is image


@pytest.mark.parametrize(
    "colour",
    [
        (255, 165, 0),  # orange
        (170, 255, 170),  # mint
        (128, 0, 200),  # purple
        (255, 170, 170),  # pale red
        (90, 5, 5),  # nearly black
        (5, 5, 90),
        (199, 0, 0),
        (255, 0, 61),
        (4, 103, 221),  # the blue of Compound: a placeholder or an avatar, not video
        (120, 128, 128),
        (128, 128, 136),
        (0, 0, 0),
    ],
)
def test_other_colours(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    with pytest.raises(AssertionError, match="unknown picture"):
        colour_of(snapshot(tmp_path, colour))
