"""Uploaded files: streamed from a multipart body to their case's folder, in a thread."""

import asyncio
import errno
import hashlib
import mimetypes
import os
import re
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from trafficlight.errors import LabError
from trafficlight.http.responses import ApiError
from trafficlight.results.events import Upload
from trafficlight.results.folder import PARTIAL, file_name, reserve

# Bytes of a form field that is not a file.
_FIELD_LIMIT = 1 << 20
# Characters of a file's name.
_NAME = 1000
# The part of the disk, and the most bytes of it, that uploads leave to events, logs and verdicts.
_RESERVE, _LONGEST_RESERVE = 1 / 20, 1 << 30
# Parts in one request.
_PARTS_LIMIT = 1000
# Bytes given to the decoder at once: it does not limit what a larger piece holds of a field.
_PIECE = 64 << 10
# Bytes that are collected for a thread to take.
_BATCH = 256 << 10
# What RFC 2046 allows as a boundary.
_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]")
# Bytes of a body besides its files.
_OVERHEAD = 1 << 20


class _Part:
    """One file while it is written. It gets its name when it is complete."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.name = name
        self._folder = folder
        self._limit = limit
        self._size = 0
        self._hash = hashlib.sha256()
        self._temporary = folder / f".{secrets.token_hex(8)}{PARTIAL}"
        self._file: BinaryIO = self._temporary.open("xb")

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise _too_large(f"{self.name[:200]!r} has more than {max(0, self._limit)} bytes")
        self._hash.update(data)
        self._file.write(data)

    def finish(self) -> Upload:
        """Give the file its name; an existing one is not replaced."""
        self._file.close()
        try:
            path = reserve(self._folder, file_name(self.name))
        except LabError as error:
            raise _too_large(str(error)) from None
        os.replace(self._temporary, path)
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Upload(
            name=self.name,
            path=path.name,
            size=self._size,
            sha256=self._hash.hexdigest(),
            media_type=media_type,
        )

    def discard(self) -> None:
        """Delete what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class _Receiver:
    """Writes the files of one multipart body. Its methods block, and are called in threads.

    :param folder: where to; it exists.
    :param file_limit: bytes of one file at most.
    :param room: returns the bytes that all files together may have.
    :param least: bytes that a file takes of them at least.
    """

    def __init__(
        self, boundary: str, folder: Path, file_limit: int, room: Callable[[], int], least: int
    ) -> None:
        self._decoder = MultipartDecoder(boundary.encode(), _FIELD_LIMIT, max_parts=_PARTS_LIMIT)
        self._folder = folder
        self._file_limit = file_limit
        self._room = room
        self._least = least
        self._part: _Part | None = None
        self._complete = False
        # A cancelled request leaves a thread in `feed`, while another one calls `discard`.
        self._lock = threading.Lock()
        self._discarded = False
        self.done: list[Upload] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        with self._lock:
            disk = shutil.disk_usage(self._folder)
            if disk.free - len(data) < min(_LONGEST_RESERVE, disk.total * _RESERVE):
                raise OSError(errno.ENOSPC, "the rest of the disk is for events and logs")
            for start in range(0, len(data), _PIECE):
                self._decode(data[start : start + _PIECE])

    def finish(self, data: bytes) -> None:
        """Take the last bytes of the body.

        :raises ValueError: it is not complete, or has no file.
        """
        self.feed(data)
        with self._lock:
            self._decode(None)
            if not self._complete:
                raise ValueError("it ends in the middle")
            if not self.done:
                raise ValueError("it holds no file: a file is a part with a file name")

    def discard(self) -> None:
        """Delete all files of the body."""
        with self._lock:
            self._discarded = True
            if self._part is not None:
                self._part.discard()
            for upload in self.done:
                (self._folder / upload.path).unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """What the files that are complete take of the limit."""
        return sum(max(file.size, self._least) for file in self.done)

    def _decode(self, piece: bytes | None) -> None:
        if self._complete or self._discarded:
            return
        self._decoder.receive_data(piece)
        while not isinstance(event := self._decoder.next_event(), NeedData):
            if isinstance(event, File):
                room = self._room() - self.size
                if room < self._least:
                    raise _too_large("there is no room for more files")
                name = (event.filename or "unnamed")[:_NAME]
                self._part = _Part(self._folder, name, min(self._file_limit, room))
            elif isinstance(event, Field):
                self._part = None  # read and ignored
            elif isinstance(event, Data) and self._part is not None:
                self._part.write(event.data)
                if not event.more_data:
                    self.done.append(self._part.finish())
                    self._part = None
            elif isinstance(event, Epilogue):
                self._complete = True
                break


async def receive_files(
    chunks: Callable[[int], AsyncIterator[bytes]],
    content_type: str,
    folder: Path,
    *,
    file_limit: int,
    room: Callable[[], int],
    least: int,
) -> list[Upload]:
    """Write the files of a multipart body into a folder: all of them, or none; paths are relative to it.

    :param chunks: returns the body, given the bytes that it may have.
    :param folder: where to; it exists.
    :param file_limit: bytes of one file at most.
    :param room: returns the bytes that all files together may have; other requests use some of them.
    :param least: bytes that a file takes of them at least.
    :raises ApiError: not multipart (415), malformed (400), too large (413), or the disk is full (507).
    """
    mimetype, parameters = parse_options_header(content_type)
    boundary = parameters.get("boundary")
    if mimetype.lower() != "multipart/form-data" or not boundary:
        message = "the body must be multipart/form-data with the file in a part named 'file'"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    if not _BOUNDARY.fullmatch(boundary):
        message = "the multipart body cannot be read: its boundary must be 1 to 70 ASCII characters"
        raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_multipart", message)
    receiver = _Receiver(boundary, folder, file_limit, room, least)
    try:
        pending = bytearray()
        async for chunk in chunks(room() + _OVERHEAD):
            pending += chunk
            if len(pending) >= _BATCH:
                await asyncio.to_thread(receiver.feed, bytes(pending))
                pending.clear()
        await asyncio.to_thread(receiver.finish, bytes(pending))
        # In the same turn of the loop as the caller's bookkeeping: other uploads may end in between.
        if receiver.size > room():
            raise _too_large("there is no room for more files")
    except BaseException as error:
        await asyncio.to_thread(receiver.discard)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the disk of the coordinator is full"
            raise ApiError(HTTPStatus.INSUFFICIENT_STORAGE, "disk_full", message) from None
        if isinstance(error, RequestEntityTooLarge):
            message = f"more than {_PARTS_LIMIT} parts, or more than {_FIELD_LIMIT} bytes besides the files"
            raise _too_large(message) from None
        if isinstance(error, ValueError):
            message = f"the multipart body cannot be read: {error}"
            raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_multipart", message) from None
        raise
    return receiver.done


def _too_large(message: str) -> ApiError:
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
