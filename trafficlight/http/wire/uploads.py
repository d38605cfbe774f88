"""Files that clients send: streamed from the request to their case's folder, never whole in memory."""

import errno
import hashlib
import mimetypes
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from quart import request
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from trafficlight.coordinator.adapter import Upload
from trafficlight.http.errors import ApiError
from trafficlight.http.requests import chunks
from trafficlight.results.names import file_name

# Bytes of a form field that is not a file.
_FIELD_LIMIT = 1 << 20
# Parts in one request.
_PARTS_LIMIT = 1000
# Bytes given to the decoder at once: it takes what is larger for a field without an end.
_PIECE = 64 << 10
# What RFC 2046 lets a boundary be.
_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]")
# Bytes of a body beside its files.
_OVERHEAD = 1 << 20


class _Part:
    """One file that is being written. It has its name only when it is whole."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.name = name
        self._folder = folder
        self._limit = limit
        self._size = 0
        self._hash = hashlib.sha256()
        self._temporary = folder / f".{secrets.token_hex(8)}.part"
        self._file: BinaryIO = self._temporary.open("xb")

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            message = f"{self.name[:200]!r} has more than {max(0, self._limit)} bytes"
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
        self._hash.update(data)
        self._file.write(data)

    def finish(self) -> Upload:
        """Give the file its name; one that is there already stays."""
        self._file.close()
        path = _reserve(self._folder, file_name(self.name))
        os.replace(self._temporary, path)
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Upload(self.name, path, self._size, self._hash.hexdigest(), media_type)

    def discard(self) -> None:
        """Leave nothing of it."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _reserve(folder: Path, name: str) -> Path:
    stem, suffix = os.path.splitext(name)
    number = 1
    while True:
        path = folder / (name if number == 1 else f"{stem}-{number}{suffix}")
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return path


async def receive(folder: Path, *, file_limit: int, room: Callable[[], int]) -> list[Upload]:
    """Write the files of the request's multipart body into a folder.

    Either all of them are there in the end, or none.

    :param folder: where to; it exists.
    :param file_limit: bytes of one file at most.
    :param room: bytes of all files together at most; asked again in the end, when others have come meanwhile.
    :raises Refusal: no multipart body (415), a broken one or one without a file (400), too large (413).
    """
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        message = "the body must be multipart/form-data with the file in a part named 'file'"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    if not _BOUNDARY.fullmatch(boundary):
        message = "the multipart body cannot be read: its boundary must be 1 to 70 ASCII characters"
        raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_multipart", message)
    done: list[Upload] = []
    part: _Part | None = None
    decoder = MultipartDecoder(boundary.encode(), _FIELD_LIMIT, max_parts=_PARTS_LIMIT)
    complete = False
    try:
        async for piece in _pieces(room() + _OVERHEAD):
            decoder.receive_data(piece)
            while not isinstance(event := decoder.next_event(), NeedData):
                if isinstance(event, File | Field):
                    left = room() - sum(file.size for file in done)
                    part = _begin(event, folder, min(file_limit, left))
                elif isinstance(event, Data) and part is not None:
                    part.write(event.data)
                    if not event.more_data:
                        done.append(part.finish())
                        part = None
                elif isinstance(event, Epilogue):
                    complete = True
                    break
        if not complete:
            raise ValueError("it ends in the middle")
        if not done:
            raise ValueError("it holds no file: a file is a part with a file name")
        if sum(file.size for file in done) > room():
            raise ApiError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", "there is no room for more files"
            )
    except BaseException as error:
        if part is not None:
            part.discard()
        for upload in done:
            upload.path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the disk of the coordinator is full"
            raise ApiError(HTTPStatus.INSUFFICIENT_STORAGE, "disk_full", message) from None
        if isinstance(error, ValueError):
            message = f"the multipart body cannot be read: {error}"
            raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_multipart", message) from None
        raise
    return done


async def _pieces(limit: int) -> AsyncIterator[bytes | None]:
    """Give the body in pieces that the decoder takes, and None for its end."""
    async for chunk in chunks(limit):
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start : start + _PIECE]
    yield None


def _begin(event: File | Field, folder: Path, limit: int) -> _Part | None:
    """Return the file that a part begins; fields that are no files are read and forgotten."""
    return _Part(folder, event.filename or "unnamed", limit) if isinstance(event, File) else None
