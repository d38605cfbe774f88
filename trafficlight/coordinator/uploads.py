"""The files that clients send."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a client sent.

    :param name: as it was sent.
    :param path: where it lies.
    :param size: bytes.
    :param sha256: of its content, in hexadecimal.
    :param media_type: what it is, as far as its name tells.
    """

    name: str
    path: Path
    size: int
    sha256: str
    media_type: str
