"""Files of sessions, served so that a browser can show them and no script in them can run."""

import asyncio
import mimetypes
import os
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from quart import Response, request

from trafficlight.http.responses import FILE_POLICY, ApiError
from trafficlight.results.reports.presentation import TEXT_SUFFIXES

_CHUNK = 256 << 10  # bytes per read
# Raster formats only: SVG may contain scripts.
_SHOWN = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif", "image/apng"}
)


def find(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder.

    :param name: untrusted, from a URL.
    :raises ApiError: the file does not exist, is hidden, or is outside of the folder (404).
    """
    absent = ApiError(HTTPStatus.NOT_FOUND, "unknown_file", "there is no such file")
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise absent
    try:
        root, path = folder.resolve(strict=True), folder.joinpath(*parts).resolve(strict=True)
        # A symbolic link may lead out of the folder.
        if not path.is_relative_to(root) or not path.is_file():
            raise absent
    except (OSError, ValueError, RuntimeError):
        raise absent from None
    return path


def media_type_of(name: str) -> str:
    """Return the media type that the name of a file indicates."""
    if Path(name).suffix.lower() in TEXT_SUFFIXES:
        return "text/plain"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


async def serve(path: Path, *, media_type: str | None = None) -> Response:
    """Return the response for a file: all of it, the requested range, or 304.

    :param media_type: of a trusted file; None serves the file with the headers for untrusted files.
    :raises ApiError: the file cannot be opened (404), or the range begins after its end (416).
    """
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except OSError:
        raise ApiError(HTTPStatus.NOT_FOUND, "unknown_file", "there is no such file") from None
    try:
        headers = {"Content-Type": media_type} if media_type is not None else _headers(path.name)
        return _response(file, headers)
    except BaseException:
        file.close()
        raise


def _response(file: BinaryIO, headers: dict[str, str]) -> Response:
    status = os.fstat(file.fileno())
    size = status.st_size
    tag = f'"{status.st_mtime_ns:x}-{size:x}"'
    headers |= {"Accept-Ranges": "bytes", "ETag": tag}
    if request.if_none_match.contains_weak(tag.strip('"')):
        file.close()
        return Response(b"", status=HTTPStatus.NOT_MODIFIED, headers=headers)
    span = _span(size, tag)
    begin, end = span or (0, size)
    if span is not None:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    code = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
    if request.method == "HEAD":
        file.close()
        response = Response(b"", status=code, headers=headers)
    else:
        response = Response(_content(file, begin, end), status=code, headers=headers)
        response.timeout = None
    response.content_length = end - begin
    return response


def _span(size: int, tag: str) -> tuple[int, int] | None:
    """Return the requested bytes as a half-open interval; None for the whole file."""
    requested = request.range
    if requested is None or requested.units != "bytes" or len(requested.ranges) != 1:
        return None  # an unsupported range is ignored
    if request.headers.get("If-Range", tag) != tag:
        return None
    begin, end = requested.ranges[0]
    if begin < 0:  # a number of bytes from the end
        begin, end = max(0, size + begin), size
    if begin >= size:
        message = f"the file has {size} bytes"
        raise ApiError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            message,
            headers={"Content-Range": f"bytes */{size}"},
        )
    return begin, min(size, end if end is not None else size)


def _headers(name: str) -> dict[str, str]:
    media_type = media_type_of(name)
    family = media_type.partition("/")[0]
    shown = media_type in _SHOWN or family in ("video", "audio") or media_type == "text/plain"
    if family == "text":
        media_type += "; charset=utf-8"
    plain = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in name)
    plain = plain.replace("\\", "_").replace('"', "_")
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    kind = "inline" if shown else "attachment"
    return {
        "Content-Type": media_type,
        "Content-Disposition": f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}",
        "Content-Security-Policy": FILE_POLICY,
        "X-Frame-Options": "SAMEORIGIN",
    }


async def _content(file: BinaryIO, begin: int, end: int) -> AsyncIterator[bytes]:
    try:
        file.seek(begin)
        left = end - begin
        while left > 0:
            chunk = await asyncio.to_thread(file.read, min(left, _CHUNK))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk
    finally:
        file.close()
