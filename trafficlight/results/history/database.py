"""The tables of the history, in SQLite or PostgreSQL: the same SQL for both."""

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from trafficlight.errors import TrafficlightError
from trafficlight.text import without_credentials
from trafficlight.version import install_command

VERSION = 2
"""Of the tables: grows with every change to them."""

Row: TypeAlias = tuple[Any, ...]

_PATIENCE = 3  # seconds that a lock or a connection may take
_TABLES = """
CREATE TABLE history_version (version INTEGER);
CREATE TABLE history_sessions (
    key BIGINT PRIMARY KEY, lab TEXT, id TEXT, started TEXT, host TEXT, size BIGINT, revision TEXT
);
CREATE TABLE history_merged (id TEXT, started TEXT, whole BIGINT, PRIMARY KEY (id, started));
CREATE TABLE history_texts (key BIGINT PRIMARY KEY, text TEXT);
CREATE TABLE history_verdicts (
    of_case BIGINT, session BIGINT, attempt INTEGER, outcome TEXT, signature BIGINT,
    seconds DOUBLE PRECISION, versions BIGINT, PRIMARY KEY (of_case, session)
);
CREATE INDEX history_verdicts_of_session ON history_verdicts (session);
CREATE TABLE history_measurements (
    of_case BIGINT, session BIGINT, name BIGINT, unit TEXT, number INTEGER,
    p50 DOUBLE PRECISION, p95 DOUBLE PRECISION, PRIMARY KEY (of_case, session, name, unit)
);
CREATE INDEX history_measurements_of_session ON history_measurements (session)
"""
_IN_SQLITE = "SELECT count(*) FROM sqlite_master WHERE name = 'history_version'"
# A lookup by to_regclass would remember, after the lock, that there were none before it.
_IN_POSTGRESQL = (
    "SELECT count(*) FROM pg_class WHERE relname = 'history_version' AND pg_table_is_visible(oid)"
)
_NAMES = ("measurements", "verdicts", "texts", "merged", "sessions", "version")
_PASSWORDS = re.compile(r"//[^:@/?#\s]*:([^@/?#\s]*)@|[?&](?:ssl)?password=([^&#\s]*)")


class HistoryError(TrafficlightError):
    """The history cannot be used: its database is locked, cannot be reached, or is of a later version.

    :param where: the file, or the URL without its password.
    """

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        super().__init__(f"the history in {where} {problem}")


def key_of(text: str) -> int:
    """Return the key of a text: 64 bits of its digest, so that no table needs to be asked for it."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def storable(text: str) -> str:
    """Return a text that any database takes: without null characters and half surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


class Database:
    """An open transaction.

    :param connection: of `sqlite3` or `psycopg`.
    :param mark: what stands for a value in its SQL.
    """

    def __init__(self, connection: Any, mark: str) -> None:
        self._connection = connection
        self._mark = mark

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """Execute a statement with ``?`` for values; return its rows, if it has any."""
        cursor = self._connection.execute(sql.replace("?", self._mark), values)
        return cursor.fetchall() if cursor.description else []

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows; those whose key is there already are left out."""
        found = list(rows)
        if found:
            marks = ", ".join([self._mark] * len(found[0]))
            sql = f"INSERT INTO history_{table} VALUES ({marks}) ON CONFLICT DO NOTHING"
            self._connection.cursor().executemany(sql, found)


@contextmanager
def opened(file: Path, url: str = "") -> Iterator[Database]:
    """Open the history, in one transaction that is committed unless this is left with an error.

    Tables are created, and those of an earlier version replaced. So is a damaged SQLite file, by an empty
    one.

    :param file: of SQLite, if there is no URL.
    :param url: ``postgresql://...``.
    :raises HistoryError: it is locked, cannot be reached or written, or is of a later version.
    """
    with _postgresql(url) if url else _sqlite(file) as database:
        yield database


@contextmanager
def _sqlite(file: Path) -> Iterator[Database]:
    try:
        try:
            connection = _connect(file)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            file.unlink()  # it is derived: what it held is in the folders
            connection = _connect(file)
    except (sqlite3.Error, OSError) as error:
        raise _problem(str(file), error) from error
    try:
        with connection:
            yield Database(connection, "?")
    except sqlite3.Error as error:
        if _is_damage(error):
            file.unlink(missing_ok=True)  # for the next time
        raise _problem(str(file), error) from error
    finally:
        connection.close()


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether a file is no database: errors of other causes have classes of their own."""
    return type(error) is sqlite3.DatabaseError


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_PATIENCE)
    database = Database(connection, "?")
    try:
        with connection:
            if _version(database, _IN_SQLITE) != VERSION:
                connection.execute("BEGIN IMMEDIATE")  # others may be at it
                _prepare(database, str(file), _IN_SQLITE)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _postgresql(url: str) -> Iterator[Database]:
    where = without_credentials(url.partition("?")[0])
    try:
        import psycopg
    except ImportError as error:
        raise HistoryError(where, f"needs psycopg: {install_command('postgresql')}") from error
    options = f"-c lock_timeout={_PATIENCE}s -c statement_timeout=60s"
    try:
        with psycopg.connect(url, connect_timeout=_PATIENCE, options=options) as connection:
            database = Database(connection, "%s")
            if _version(database, _IN_POSTGRESQL) != VERSION:
                # One coordinator at a time creates the tables; the lock ends with the transaction.
                database.rows("SELECT pg_advisory_xact_lock(?)", key_of("trafficlight history"))
                _prepare(database, where, _IN_POSTGRESQL)
            yield database
    except psycopg.Error as error:
        raise _problem(where, error, secrets=_passwords(url)) from None  # it may quote the URL


def _version(database: Database, exists: str) -> int | None:
    """Return the version of the tables; None if there are none.

    :param exists: the query for whether there are.
    """
    if not database.rows(exists)[0][0]:
        return None
    (found,) = database.rows("SELECT max(version) FROM history_version")[0]
    return found or 0


def _prepare(database: Database, where: str, exists: str) -> None:
    """Create the tables unless they are there in this version."""
    version = _version(database, exists)
    if version == VERSION:
        return
    if version is not None and version > VERSION:
        raise HistoryError(where, f"is of version {version}, and this trafficlight knows version {VERSION}")
    for name in _NAMES:
        database.rows(f"DROP TABLE IF EXISTS history_{name}")
    for statement in _TABLES.split(";"):
        database.rows(statement)
    database.insert("version", [(VERSION,)])


def _passwords(url: str) -> list[str]:
    """Return the passwords in a URL as they are there, and decoded; the longest first."""
    found = {text for groups in _PASSWORDS.findall(url) for text in groups if text}
    return sorted(found | {unquote(text) for text in found}, key=len, reverse=True)


def _problem(where: str, error: Exception, secrets: Iterable[str] = ()) -> HistoryError:
    text = without_credentials(" ".join(str(error).split())) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    return HistoryError(where, f"cannot be used: {text}")
