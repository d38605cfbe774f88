"""Names of files and folders that every file system accepts, as pure functions of ids and free text.

A case's folder depends on its id only. An id of the usual shape is used as it is; in any other, unusual
characters are replaced and a digest of the id is appended after a ``~``, so that no two ids share a folder.
"""

import hashlib
import re

LONGEST = 140
"""Bytes in one name. Most file systems take 255, encrypted home directories 143."""

_DIGEST = 12  # hexadecimal digits
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@-]*")
_USUAL = re.compile(
    r"(?P<file>[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)\.py"
    r"::(?P<test>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)"
    r"(?:\[(?P<cell>[A-Za-z0-9_][A-Za-z0-9_.,=+@-]*)\])?"
)
_ODD = re.compile(r"[^A-Za-z0-9_.,=+@-]+")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|]')
_NO_CELL = "-"  # no cell can be called that: one begins with a letter, a digit or an underscore


def case_path(case_id: str) -> str:
    """Return the path of a case's folder, relative to the folder of its session.

    :param case_id: any text; ids of the usual shape give ``cases/chat.login_test/Login/alice=Nio``.
    """
    # Always four levels, so that no case's folder lies within another's.
    usual = _USUAL.fullmatch(case_id)
    if usual is not None:
        parts = (usual["file"].replace("/", "."), usual["test"], usual["cell"] or _NO_CELL)
        if max(map(len, parts)) <= LONGEST:
            return "/".join(("cases", *parts))
    file, _, rest = case_id.partition("::")
    test, _, cell = rest.partition("[")
    parts = (
        _readable(file.removesuffix(".py").replace("/", ".")),
        _readable(test),
        _readable(cell.removesuffix("]"), digest_of=case_id),
    )
    return "/".join(("cases", *parts))


def attempt_path(case_id: str, attempt: int) -> str:
    """Return the path of one attempt's folder, relative to the folder of its session."""
    return f"{case_path(case_id)}/attempt-{attempt}"


def folder_name(text: str) -> str:
    """Return a name for a folder: the text itself where it is plain, else a readable form with a digest."""
    if _PLAIN.fullmatch(text) and len(text) <= LONGEST:
        return text
    return _readable(text, digest_of=text)


def file_name(name: str, *, longest: int = LONGEST) -> str:
    """Return a name for a file that keeps as much of a given one as is safe: spaces and any script included.

    Different names can give the same result; the caller makes it unique.

    :param name: as it was given; may hold a path, of which the last part counts.
    :param longest: bytes that the name may take in UTF-8.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    safe = _UNSAFE.sub("_", last).lstrip(".").strip() or "unnamed"
    if len(safe.encode()) <= longest:
        return safe
    stem, dot, suffix = safe.rpartition(".")
    if not dot or not stem or len(suffix.encode()) > 16:
        stem, dot, suffix = safe, "", ""
    room = longest - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + suffix


def _readable(text: str, *, digest_of: str | None = None) -> str:
    tail = "" if digest_of is None else f"~{_digest(digest_of)}"
    slug = _ODD.sub("_", text).lstrip(".-")
    return (slug[: LONGEST - len(tail)] + tail) or "_"


def _digest(text: str) -> str:
    # surrogatepass: an id may come from anywhere, and two that differ in a lone surrogate differ.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
